"""The command `convive`, from its first moment. It stands above the packages: to import any of them takes a good part
of a second, in which Ctrl-C is to be as quiet as later."""

import signal


def main() -> None:
    """The entry point. Until the command begins its work, Ctrl-C ends the process by the signal: nothing is begun."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started us has it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from convive.scenarios import main as command

    command()
