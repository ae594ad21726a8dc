"""`make demo`, last step: out/demo/index.html from what each tool's demo left in out/demo/<tool>/.

A demo leaves commands.txt (what was run), figure.txt (the table people read), a picture or a page
(*.png, *.html), and seconds.txt; tools/<tool>/demo.json says what the paper claims and what is not yet measured.
A folder that lacks one of the texts is named on stderr, left out, and makes the exit status 1.
"""

import base64
import html
import json
import os
import platform
import re
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "demo"
TEXTS = ("commands", "figure", "seconds")
STYLE = """
:root { color-scheme: light dark; --line: #ddd; --soft: #f6f6f4; --text: #222; --page: #fff; --link: #0b57a4 }
@media (prefers-color-scheme: dark) { :root { --line: #444; --soft: #242424; --text: #ddd; --page: #181818; --link: #8ab8f0 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: var(--text); background: var(--page) }
a { color: var(--link) }
h2 { border-top: 1px solid var(--line); padding-top: 1.5rem; margin-top: 2.5rem }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; font-size: 13px; line-height: 1.35 }
pre.commands { white-space: pre-wrap; overflow-wrap: anywhere } pre.commands span { display: block; padding-left: 1.5rem; text-indent: -1.5rem }
table { border-collapse: collapse; width: 100% } td, th { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: left; vertical-align: top }
td.seconds { text-align: right; white-space: nowrap }
img { max-width: 100%; height: auto; background: #fff }
iframe { width: 100%; height: 32rem; border: 1px solid var(--line); background: #fff }
dl { border-left: 4px solid var(--line); padding-left: 1rem } dt { font-weight: 600 } dd { margin: 0 0 .8rem }
@media (max-width: 40rem) { body { margin: 1rem auto } pre { font-size: 11px } iframe { height: 22rem } td, th { padding: .35rem .3rem } }
"""


def card_of(tool: str) -> dict[str, str]:
    read: dict[str, str] = json.loads((ROOT / "tools" / tool / "demo.json").read_text())
    return {key: re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(value)) for key, value in read.items()}


def description(tool: str) -> str:
    return html.escape(tomllib.loads((ROOT / "tools" / tool / "pyproject.toml").read_text())["project"]["description"])


def section(folder: Path) -> str:
    card = card_of(folder.name)
    read = {name: html.escape((folder / f"{name}.txt").read_text().strip("\n")) for name in TEXTS}
    commands = "".join(f"<span>{line}</span>" for line in read["commands"].splitlines())
    pictures = "".join(
        f'<p><a href="{folder.name}/{p.name}"><img alt="{card["picture"]}"'
        f' src="data:image/png;base64,{base64.b64encode(p.read_bytes()).decode()}"></a></p>'
        for p in sorted(folder.glob("*.png"))
    )
    pictures += "".join(
        f'<iframe title="{card["picture"]}" src="{folder.name}/{p.name}" loading="lazy"></iframe>'
        f'<p><a href="{folder.name}/{p.name}">{p.name} on a page of its own</a></p>'
        for p in sorted(folder.glob("*.html"))
    )
    return f"""<section><h2 id="{folder.name}">{folder.name}</h2><p>{card["what"]}</p>
<h3>What was run ({read["seconds"].strip()} s)</h3><pre class="commands">{commands}</pre>
<h3>What came out</h3><pre tabindex="0">{read["figure"]}</pre>{pictures}
<dl><dt>The paper's claim ({card["source"]})</dt><dd>{card["claim"]}</dd>
<dt>Not yet measured</dt><dd>{card["not_measured"]}</dd></dl></section>"""


def row(folder: Path) -> str:
    seconds = (folder / "seconds.txt").read_text().strip()
    return (
        f'<tr><td><a href="#{folder.name}">{folder.name}</a></td><td>{description(folder.name)}</td>'
        f'<td class="seconds">{seconds} s</td></tr>'
    )


def main() -> int:
    found = [OUT / tool.name for tool in sorted((ROOT / "tools").iterdir()) if (OUT / tool.name).is_dir()]
    whole = [folder for folder in found if all((folder / f"{name}.txt").is_file() for name in TEXTS)]
    for folder in found:
        if folder not in whole:
            print(
                f"{folder.relative_to(ROOT)}: its demo did not finish; run `make demo-{folder.name}`", file=sys.stderr
            )
    total = sum(int((folder / "seconds.txt").read_text()) for folder in whole)
    where = f"{len(os.sched_getaffinity(0))} CPU cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    page = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Tenfold: what each tool just did</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>
<h1>Tenfold: what each tool just did on this machine</h1>
<p>{len(whole)} demos, {total} s, {where}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. Each section shows the commands as
they ran, the figure they printed, its picture, what the paper claims, and what is not yet measured. Everything here
is small enough for two CPU cores; the measured claims, with seeds, controls and intervals, stand in <code>EVIDENCE.md</code>.</p>
<table><thead><tr><th>tool</th><th>what it is</th><th>time</th></tr></thead><tbody>{"".join(map(row, whole))}</tbody></table>
{"".join(map(section, whole))}</body></html>"""
    (OUT / "index.html").write_text(page)
    print(f"{(OUT / 'index.html').relative_to(ROOT)} written: {', '.join(folder.name for folder in whole)}")
    return 0 if whole == found else 1


if __name__ == "__main__":
    sys.exit(main())
