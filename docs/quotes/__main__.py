"""``python -m docs.quotes``: renews what the README and the documentation quote from results."""

from pathlib import Path

from docs.quotes import commands, costs, gallery, gold_maps
from docs.quotes.marked import write_part


def parts() -> dict[tuple[Path, str], str]:
    """What is written into pages, by page and name of the mark."""
    return commands.parts() | gallery.parts() | gold_maps.parts() | costs.parts()


def main() -> None:
    """Renew all parts."""
    for (page, name), text in parts().items():
        write_part(page, name, text)


if __name__ == "__main__":
    main()
