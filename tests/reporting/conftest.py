"""Settings every test of the page shares."""

import pytest


@pytest.fixture
def opened(visit, tmp_path):
    """Return what writes a page and opens it."""

    def open_it(content, **options):
        file = tmp_path / "page.html"
        file.write_text(content.render(), encoding="utf-8")
        return visit(file, **options)

    return open_it
