"""What every test starts from."""

import signal

# A shell starts its background jobs with SIGINT ignored, and children inherit that: no test of Ctrl-C could pass.
signal.signal(signal.SIGINT, signal.default_int_handler)
