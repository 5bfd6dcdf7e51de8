"""Take pictures of the report page in Chromium: the README's, or all widths, dark and print.

`python -m benchmarks.screenshots` writes docs/images/report.png of the demo's last page;
`python -m benchmarks.screenshots --folder /tmp/pictures` writes one a width to look at, instead.
"""

import argparse
import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from tests.chromium import CHROMIUM

_WIDTHS = (390, 768, 1280)
_README = Path("docs/images/report.png")


def _picture(browser: Browser, page: Path, *, width: int, height: int, scheme: str) -> bytes:
    view = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    view.goto(page.absolute().as_uri())
    taken: bytes = view.screenshot()
    view.close()
    return taken


def _write(taken: bytes, file: Path) -> None:
    """Keep 64 colours: text and grey digits need no more."""
    picture = Image.open(io.BytesIO(taken)).convert("RGB").quantize(64)
    picture.save(file, optimize=True)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, default=Path("data/08_reporting/cleaning_report.html"))
    parser.add_argument("--folder", type=Path, help="for a picture of every width, and a PDF")
    arguments = parser.parse_args()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        if arguments.folder is None:
            taken = _picture(browser, arguments.page, width=1280, height=1400, scheme="light")
            _write(taken, _README)
            return
        arguments.folder.mkdir(parents=True, exist_ok=True)
        for width in _WIDTHS:
            for scheme in ("light", "dark"):
                taken = _picture(browser, arguments.page, width=width, height=2400, scheme=scheme)
                _write(taken, arguments.folder / f"{width}-{scheme}.png")
        view = browser.new_page()
        view.goto(arguments.page.absolute().as_uri())
        view.pdf(path=arguments.folder / "print.pdf", format="A4")
        view.emulate_media(media="print")
        view.set_viewport_size({"width": 720, "height": 2400})
        _write(view.screenshot(), arguments.folder / "print.png")


if __name__ == "__main__":
    main()
