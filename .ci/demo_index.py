"""`make demo`, last step: out/demo/index.html from what each tool's demo left in out/demo/<tool>/.

A demo leaves commands.txt (what was run), figure.txt (the table people read), a picture or a page
(*.png, *.html), and seconds.txt; tools/<tool>/demo.json says what the paper claims and what is not yet measured.
"""

import base64
import html
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "demo"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
pre { background: #f6f6f4; padding: .8rem; overflow-x: auto; font-size: 13px; line-height: 1.35 }
img, iframe { max-width: 100% } iframe { width: 100%; height: 32rem; border: 1px solid #ddd } h2 { border-top: 1px solid #ddd; padding-top: 1.5rem } dt { font-weight: 600 }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } pre { background: #242424 } img { background: #fff } }
"""


def section(folder: Path) -> str:
    card = json.loads((ROOT / "tools" / folder.name / "demo.json").read_text())
    read = {name: html.escape((folder / f"{name}.txt").read_text()) for name in ("commands", "figure", "seconds")}
    pictures = "".join(
        f'<img alt="{html.escape(card["picture"])}" src="data:image/png;base64,{base64.b64encode(p.read_bytes()).decode()}">'
        for p in sorted(folder.glob("*.png"))
    )
    pictures += "".join(
        f'<iframe title="{html.escape(card["picture"])}" src="{folder.name}/{p.name}" loading="lazy"></iframe>'
        f'<p><a href="{folder.name}/{p.name}">{p.name} on a page of its own</a></p>'
        for p in sorted(folder.glob("*.html"))
    )
    return f"""<h2 id="{folder.name}">{folder.name}</h2><p>{html.escape(card["what"])}</p>
<h3>What was run ({read["seconds"].strip()} s)</h3><pre>{read["commands"]}</pre>
<h3>What came out</h3><pre>{read["figure"]}</pre>{pictures}
<dl><dt>The paper's claim ({html.escape(card["source"])})</dt><dd>{html.escape(card["claim"])}</dd>
<dt>Not yet measured</dt><dd>{html.escape(card["not_measured"])}</dd></dl>"""


folders = [OUT / tool.name for tool in sorted((ROOT / "tools").iterdir()) if (OUT / tool.name).is_dir()]
body = "\n".join(section(folder) for folder in folders)
page = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Tenfold demo</title><style>{STYLE}</style><h1>Tenfold: what each tool just did on this machine</h1>{body}</html>"
(OUT / "index.html").write_text(page)
print(f"{(OUT / 'index.html').relative_to(ROOT)} written: {', '.join(folder.name for folder in folders)}")
