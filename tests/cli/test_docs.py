"""The tutorial does what it says: its blocks are run as they stand, one after the other."""

import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"^```(sh|python)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def test_the_first_store_works_as_written(tmp_path: Path) -> None:
    found = blocks(DOCS / "tutorial/first-store.md")
    assert len(found) >= 7
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/pinstripe"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pinstripe "$@"\n')
    command.chmod(0o755)
    (tmp_path / "work").mkdir()
    names = [name for name in os.environ if name.startswith(("PMIX_", "PMI_", "OMPI_COMM_WORLD", "PINSTRIPE_"))]
    env = {name: value for name, value in os.environ.items() if name not in names}
    env["PATH"] = f"{tmp_path / 'bin'}:{env['PATH']}"
    for language, text in found:
        run = ["bash", "-e", "-o", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(
            run, cwd=tmp_path / "work", env=env, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        if "unplugged" in text:
            assert "exit code 4" in done.stdout
        else:
            assert done.stderr == ""
    assert sorted(os.listdir(tmp_path / "work")) == ["out", "results"]


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*DOCS.glob("how-to/*.md"), *DOCS.glob("tutorial/*.md"), DOCS / "reference/cli.md"]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
