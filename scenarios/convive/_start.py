"""The command `convive`, from its first moment. It stands above the packages: to import any of them takes a good part
of a second, in which Ctrl-C is to be as quiet as later."""

import signal


def main() -> None:
    """The entry point. While the command is imported, Ctrl-C ends the process by the signal: nothing is begun yet."""
    told = signal.getsignal(signal.SIGINT)
    if told is signal.default_int_handler:  # else whoever started us has Ctrl-C ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from convive.scenarios import main as command

    if told is signal.default_int_handler:
        signal.signal(signal.SIGINT, told)
    command()
