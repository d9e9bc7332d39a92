"""The contract's messages, as generate.sh writes them.

Must never be changed by hand, nor be part of what callers see: an answer holds the secret, and prints it.
"""
