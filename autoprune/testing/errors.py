"""What a broken contract raises."""


class ContractError(AssertionError):
    """A plug-in does not keep the contract of its kind."""
