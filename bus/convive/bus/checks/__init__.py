"""What every log and every queue promises, as checks that run on any of them."""
