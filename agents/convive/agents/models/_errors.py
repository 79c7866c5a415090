"""What goes wrong with models and runs. Each text is fit for a person; none carries a secret."""

from convive.bus import ConviveError


class ModelError(ConviveError):
    """A model gave no usable answer.

    `transient`: asking again later may help, without anybody mending anything. `mendable`: a person can mend it (a key,
    a name, a connection), and then the same request will do.
    """

    transient = False
    mendable = False


class ModelAccessDenied(ModelError):
    """The provider refused the key, or the key may not use this model."""

    mendable = True


class UnknownModel(ModelError):
    """No such provider, model or model file; or a name without a provider."""

    mendable = True


class BadModelRequest(ModelError):
    """The provider refused the request itself, for example because it is too long."""


class ModelOverloaded(ModelError):
    """The provider asks to come back later (rate limit, overload, a server error), also after retries."""

    transient = True


class ModelUnreachable(ModelError):
    """No connection to the provider."""

    mendable = True


class ModelAnswerBroken(ModelError):
    """The answer broke off or could not be read; what had arrived of it is void."""

    transient = True
