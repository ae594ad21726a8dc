"""`python -m tenfold_kernels.report [--write] [--kernel NAME]`: compile every kernel without a GPU.

For sm_80 and sm_90, each build case of the registry: registers, shared memory, spills and the key
instructions, against kernels/baseline.json. Exit 1 where something grew or a key instruction is gone,
3 where a compiler is missing. --write makes the figures seen the new baseline.

What is compiled is what the launcher would start on a GPU: its launches are recorded with meta tensors.
Figures depend on the compiler, so the baseline names Triton's and nvcc's versions; the figures of
another version are printed and not compared.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenfold_kernels import device
from tenfold_kernels.registry import Case, Kernel, kernels

BASELINE = Path(__file__).parent.parent / "baseline.json"
ARCHITECTURES = (80, 90)
MORE_REGISTERS = 0.10  # what registers and shared memory may grow by
MUST_STAY = ("HMMA", "HGMMA", "IMMA", "LDG.128", "LDGSTS.128")
# Of the machine code: tensor-core products, 16-byte loads and asynchronous copies, and local memory.
INSTRUCTIONS = {
    "HMMA": r"\bHMMA\.",
    "HGMMA": r"\bHGMMA\.",
    "IMMA": r"\bIMMA\.",
    "LDG.128": r"\bLDG\.E(?:\.\w+)*\.128\b",
    "LDGSTS.128": r"\bLDGSTS\.E(?:\.\w+)*\.128\b",
    "LDS.128": r"\bLDS\.128\b",
    "ATOMS": r"\bATOMS\.",
    "spills": r"\b(?:STL|LDL)\b",
}


@dataclass(frozen=True)
class Compiled:
    """Figures of one kernel compiled for one architecture; `spills` counts local loads and stores."""

    registers: int  # a thread
    shared: int  # bytes a block, dynamic memory included
    spills: int
    instructions: Mapping[str, int] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        return {
            "registers": self.registers,
            "shared": self.shared,
            "spills": self.spills,
            "instructions": dict(self.instructions),
        }


class CompilerMissing(Exception):
    """Text: what is missing and how to get it."""


def launches(kernel: Kernel, case: Case) -> list[device.Launch]:
    """What the launcher would start for CASE of the kernel's own module, each device function once."""
    with device.recording() as found:
        device.resolve(kernel.launcher)(**kernel.make(case, "meta"))
    return list({launch.function: launch for launch in found if launch.module == kernel.module}.values())


def compile_launch(launch: device.Launch, architecture: int) -> Compiled:
    """Raises CompilerMissing."""
    return (_compile_triton if launch.language == "triton" else _compile_cuda)(launch, architecture)


def _compile_triton(launch: device.Launch, architecture: int) -> Compiled:
    with device.interpreter(False):
        try:
            import triton
            from triton.backends.compiler import GPUTarget
            from triton.compiler import ASTSource
        except ImportError as error:
            raise CompilerMissing(f"Triton cannot be imported ({error}): pip install triton") from None
        function = getattr(device.load(launch.module), launch.function)
        varying = {parameter.name for parameter in function.params if parameter.do_not_specialize}
        signature, constants, attributes = _signature(function.arg_names, launch, varying)
        source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes)
        options = {"num_warps": launch.warps, "num_stages": launch.stages, **device.OPTIONS}
        built = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    return _read_cubin(
        built.asm["cubin"], int(built.metadata.shared), str(tools / "cuobjdump"), str(tools / "nvdisasm")
    )


def _signature(
    names: Iterable[str], launch: device.Launch, varying: set[str]
) -> tuple[dict[str, str], dict[str, Any], dict[Any, Any]]:
    """Types, constants and divisibility as Triton's own launch would specialise on; VARYING by type alone."""
    import torch

    constants = dict(launch.constants)
    signature: dict[str, str] = {}
    attributes: dict[Any, Any] = {}
    values = iter(launch.arguments)
    kinds = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "bool": "i1", "uint8": "u8"}
    kinds |= {"int16": "i16", "int32": "i32", "int64": "i64"}
    for at, name in enumerate(names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        value = next(values)
        if isinstance(value, torch.Tensor):
            signature[name] = "*" + kinds[str(value.dtype).removeprefix("torch.")]
            attributes[(at,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif value == 1 and name not in varying:
            signature[name], constants[name] = "constexpr", 1
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and name not in varying:
                attributes[(at,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def _compile_cuda(launch: device.Launch, architecture: int) -> Compiled:
    nvcc = shutil.which("nvcc")
    tools = [shutil.which(name) or _bundled(name) for name in ("cuobjdump", "nvdisasm")]
    if nvcc is None or None in tools:
        raise CompilerMissing("nvcc, cuobjdump or nvdisasm is not on PATH: install the CUDA toolkit")
    source = device.HERE / "cuda" / f"{launch.module}.cu"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        command = [nvcc, f"-arch=sm_{architecture}", "-cubin", "-std=c++17", *device.defines(launch.constants)]
        done = subprocess.run([*command, "-o", str(cubin), str(source)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{source.name}: nvcc: {done.stderr.strip()}")
        return _read_cubin(cubin.read_bytes(), launch.shared, str(tools[0]), str(tools[1]))


def _bundled(name: str) -> str | None:
    """The tool as Triton's wheel carries it."""
    try:
        import triton
    except ImportError:
        return None
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return str(path) if path.exists() else None


def _read_cubin(cubin: bytes, dynamic: int, cuobjdump: str, nvdisasm: str) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run(
            [cuobjdump, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
        code = subprocess.run([nvdisasm, "-c", file.name], capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"\b(REG|SHARED|LOCAL|STACK):(\d+)", usage.stdout))
    counts = {name: len(re.findall(pattern, code)) for name, pattern in INSTRUCTIONS.items()}
    spills = counts.pop("spills")
    seen = {name: count for name, count in counts.items() if count}
    return Compiled(int(found["REG"]), int(found["SHARED"]) + dynamic, spills, seen)


# ---------------------------------------------------------------- the baseline


def compile_case(
    kernel: Kernel, case: Case, architectures: Iterable[int] = ARCHITECTURES, done: set[Any] | None = None
) -> Iterator[tuple[str, Compiled]]:
    """(name of the row, figures) of each device function CASE starts, but those DONE. Raises CompilerMissing."""
    done = set() if done is None else done
    for launch in launches(kernel, case):
        types = tuple(str(value.dtype) for value in launch.arguments if hasattr(value, "dtype"))
        alike = (kernel.name, launch.function, types, tuple(sorted(launch.constants.items())))
        if alike in done:
            continue
        done.add(alike)
        for architecture in architectures:
            name = f"{kernel.name} / {case.name} / {launch.function} / sm_{architecture}"
            yield name, compile_launch(launch, architecture)


def regressions(name: str, now: Compiled, before: Mapping[str, Any] | None) -> list[str]:
    """What is worse than the baseline's row, in words."""
    if before is None:
        return [f"{name}: no baseline; python -m tenfold_kernels.report --write makes one"]
    worse = []
    if now.spills > before["spills"]:
        worse.append(f"{name}: {now.spills} spill instructions, were {before['spills']}")
    for key in ("registers", "shared"):
        if getattr(now, key) > before[key] * (1 + MORE_REGISTERS):
            worse.append(f"{name}: {getattr(now, key)} {key}, were {before[key]}")
    for key in MUST_STAY:
        if before["instructions"].get(key) and not now.instructions.get(key):
            worse.append(f"{name}: no {key} instruction any more, were {before['instructions'][key]}")
    return worse


def versions() -> dict[str, str]:
    found = {}
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        pass
    if nvcc := shutil.which("nvcc"):
        text = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
        found["nvcc"] = (re.findall(r"release ([\d.]+)", text) or ["?"])[0]
    return found


def other_compiler(kernel: Kernel, baseline: Mapping[str, Any]) -> str:
    """What differs where the baseline is another compiler's, or an empty string."""
    name = "triton" if kernel.kind == "triton" else "nvcc"
    before, now = baseline["versions"].get(name), versions().get(name)
    return f"the baseline is of {name} {before}, this is {now}" if before and now and before != now else ""


def read_baseline() -> dict[str, Any]:
    return json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.exists() else {"versions": {}, "rows": {}}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tenfold_kernels.report", description="compile every kernel offline"
    )
    parser.add_argument("--write", action="store_true", help="make the figures seen the baseline")
    parser.add_argument("--kernel", action="append", help="this kernel only (repeatable)")
    options = parser.parse_args(arguments)
    baseline = read_baseline()
    used = versions()
    rows: dict[str, Any] = {}
    worse: list[str] = []
    missing = False
    done: set[Any] = set()  # functions that several cases start alike
    print(f"{'registers':>9} {'shared':>7} {'spills':>6}  kernel / case / function / architecture: key instructions")
    for kernel in kernels():
        if options.kernel and kernel.name not in options.kernel:
            continue
        if other := other_compiler(kernel, baseline):
            print(f"{kernel.name}: not compared: {other}", file=sys.stderr)
        try:
            for case in kernel.builds:
                for name, compiled in compile_case(kernel, case, done=done):
                    kinds = " ".join(f"{key} {count}" for key, count in compiled.instructions.items())
                    line = f"{compiled.registers:9} {compiled.shared:7} {compiled.spills:6}  {name}: {kinds}"
                    print(line, flush=True)
                    rows[name] = compiled.row()
                    worse += [] if other else regressions(name, compiled, baseline["rows"].get(name))
        except CompilerMissing as error:
            print(f"{kernel.name}: left out: {error}", file=sys.stderr)
            missing = True
    if options.write:
        kept = baseline["rows"] if options.kernel or missing else {}
        made = {"versions": baseline["versions"] | used, "rows": dict(sorted((kept | rows).items()))}
        BASELINE.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{len(rows)} rows written to {BASELINE}", file=sys.stderr)
        return 3 if missing else 0
    for line in worse:
        print(line, file=sys.stderr)
    return 1 if worse else 3 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
