"""`python -m labyard.faas` is `faasd`."""

from labyard.faas.faasd import main

if __name__ == "__main__":
    main()
