"""`python -m osler` is `osler`."""

from osler.cli.app import main

main()
