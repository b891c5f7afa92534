"""The runtime's errors: the root of the project's tree and three of its branches."""


class QSchedError(Exception):
    """Root of the tree; its text is one line: what failed, the offending value, what to do."""


class BundleError(QSchedError):
    """The bundle's files or its qsched.json cannot be used."""


class RequestError(QSchedError, ValueError):
    """A prompt, seed, size, step count or guidance the bundle cannot serve."""


class ProviderError(QSchedError):
    """An execution provider is missing or refuses a graph."""
