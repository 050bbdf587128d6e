"""`python -m enclip`, which is also what torchrun starts."""

from enclip.cli import main

if __name__ == "__main__":
    main()
