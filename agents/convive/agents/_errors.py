"""What goes wrong with models and runs. Each text is fit for a person; none carries a secret."""

from convive.bus import ConviveError


class ModelError(ConviveError):
    """A model gave no usable answer. `transient`: asking again later may help, without anybody mending anything."""

    transient = False


class ModelAccessDenied(ModelError):
    """The provider refused the key, or the key may not use this model."""


class UnknownModel(ModelError):
    """No such provider, model or model file; or a name without a provider."""


class BadModelRequest(ModelError):
    """The provider refused the request itself, for example because it is too long."""


class ModelOverloaded(ModelError):
    """The provider asks to come back later (rate limit, overload, a server error), also after retries."""

    transient = True


class ModelUnreachable(ModelError):
    """No connection to the provider."""


class ModelAnswerBroken(ModelError):
    """The answer broke off or could not be read; what had arrived of it is void."""

    transient = True
