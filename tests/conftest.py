"""Settings of the whole test run; `tests/` itself is on the path, so tests `import zoo`."""

import torch

torch.set_num_threads(1)
