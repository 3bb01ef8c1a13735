"""`python -m curation_assets.cli`."""

from curation_assets.cli import main

if __name__ == "__main__":
    main()
