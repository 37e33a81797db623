"""AMC: AutoML for Model Compression (He et al., ECCV 2018), by reinforcement learning.

An episode walks through the network's groups and decides on each; the candidate it ends with is
one suggestion. `walk` holds the states and the clipping of actions, `noise` the exploration,
`agent` stable-baselines3's agents, `searcher` the ask-and-tell, `env` a gymnasium environment for
those who want to train an agent of their own.
"""
