"""Opens a page in a headless browser, where there is one; else the test is skipped."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
)


def chromium(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page, with a profile of its own in a folder; the console must stay empty."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium or chrome on PATH")
    command = [path, *OPTIONS, f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    return done


def widths(html: str, folder: Path, width: int) -> tuple[int, int]:
    """How wide a page is in a window of a width, and how wide that window really is."""
    # The window of a headless browser has a least width, a frame has not.
    measure = "[document.documentElement.scrollWidth, innerWidth].join(' ')"
    send = f"<script>addEventListener('load', () => parent.postMessage({measure}, '*'))</script>"
    (folder / "page.html").write_text(html.replace("</body>", send + "</body>"), encoding="utf-8")
    (folder / "frame.html").write_text(
        "<!doctype html><script>onmessage = event => { document.title = 'measured ' + event.data }</script>"
        f'<iframe src="page.html" style="width:{width}px;height:800px;border:0"></iframe>'
    )
    done = chromium(folder / "frame.html", folder, "--virtual-time-budget=5000", "--dump-dom")
    result = re.search(r"measured (\d+) (\d+)", done.stdout)
    assert result is not None, done.stderr
    return int(result[1]), int(result[2])


def sheets(html: str, folder: Path) -> int:
    """On how many sheets of paper a page is printed."""
    (folder / "printed.html").write_text(html, encoding="utf-8")
    chromium(folder / "printed.html", folder, "--no-pdf-header-footer", f"--print-to-pdf={folder / 'printed.pdf'}")
    return len(re.findall(rb"/Type\s*/Page\b", (folder / "printed.pdf").read_bytes()))


def screen_style(html: str) -> str:
    """The style sheet of a page without what is for print; its braces must match."""
    style = "".join(re.findall(r"<style>(.*?)</style>", html, flags=re.S))
    assert style.count("{") == style.count("}") > 20
    depth, printed, kept = 0, None, []
    for part in re.split(r"(@media print \{|[{}])", style):
        if part in ("{", "@media print {"):
            depth += 1
            printed = depth if printed is None and part != "{" else printed
        elif part == "}":
            assert depth > 0, "a rule is closed that was not opened"
            printed = None if printed == depth else printed
            depth -= 1
        elif printed is None:
            kept.append(part)
    return "".join(kept)
