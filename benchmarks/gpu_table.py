"""The table that benchmarks/gpu.py prints, made of what it measured and of nothing else.

A bar that nothing was measured for is `not measured`, and why is in the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu_setting import OWN, PRECISIONS, ROOT

RIVALS = ("torch compile", "export tensorrt", "export tensorrt_rtx", "export onnxruntime_cuda")

Measured = Mapping[str, Any]


def table(kept: Measured) -> str:
    """All that was measured, and then how it stands to the bars."""
    parts = [f"GPU: {kept.get('gpu', 'unknown')}", *_facts(kept), *_runs(kept), *_rates(kept)]
    parts += _bundles(kept)
    parts += [*_speed(kept), *_overhead(kept), "", "Bars"]
    parts += [f"  {bar:58} {result}" for bar, result in bars(kept)]
    return "\n".join(parts)


def _facts(kept: Measured) -> Iterator[str]:
    found = _only(kept, "facts")
    if "fault" in found:
        return
    driver = found["nvidia-smi"].get("driver_version", "of unknown version")
    yield f"driver {driver}, which offers CUDA {found['cuda of the driver']}"
    packages = found["packages"]
    for name in ("onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "cuda-python", "torch"):
        if name in packages:
            yield f"{name} {packages[name]}"


def _runs(kept: Measured) -> Iterator[str]:
    yield ""
    yield "What runs on this card"
    for engine, said in kept.get("runs", {}).items():
        yield f"  {engine:24} {'yes' if said.get('runs') else 'no: ' + said.get('fault', 'wrong')}"
        if "refused" in said:
            yield f"  {'':24} built without the GPU, for with it: {said['refused']}"
        if (library := said.get("library")) is not None:
            words = "; ".join(library["said"]) or "nothing"
            yield f"  {'':24} its library came to: {library['reached']}, and said: {words}"


def _rates(kept: Measured) -> Iterator[str]:
    yield from _head("Measured rates (torch)", found := _only(kept, "rates"))
    if found.get("read"):
        yield f"  {'reading memory':24} {found['read'] / 1e12:8.2f} TB/s"
    for precision in ("fp32", "tf32", "fp16", "bf16", "int8"):
        if found.get(precision):
            yield f"  {'products in ' + precision:24} {2 * found[precision] / 1e12:8.1f} TFLOP/s"


def _bundles(kept: Measured) -> Iterator[str]:
    verified = kept.get("verify", {})
    for precision, built in kept.get("build", {}).items():
        yield from _head(f"{kept.get('net', 'alexnet')} in {precision}", built)
        if "refused" in built:
            yield f"  built without the GPU, for with it: {built['refused']}"
        for record in built.get("engines", ()):
            yield f"  {record['engine']:24} {record['status']}"
        found = verified.get(precision, {"fault": "not measured"})
        if "fault" in found:
            yield f"  {'layer by layer':24} {found['fault']}"
        for backend, (passed, status) in found.get("backends", {}).items():
            worst = found["worst_rel_l2"].get(backend)
            known = passed is not None and worst is not None
            size = f", at most {worst:.1e} from the reference" if known else ""
            result = "passed" if passed else status if passed is None else "failed"
            yield f"  {'layer by layer, ' + backend:36} {result}{size}"


def _speed(kept: Measured) -> Iterator[str]:
    found = kept.get("speed", {})
    if not found:
        return
    yield ""
    yield f"{'Speed':46} batch   p50 ms   p99 ms   images/s  of the limit"
    for name, batches in found.items():
        for batch, times in batches.items():
            if batch == "fault":
                continue
            share = _share(kept, name, int(batch), times["images_per_s"])
            yield (
                f"  {name:44} {batch:>5} {times['p50_ms']:8.3f} {times['p99_ms']:8.3f} "
                f"{times['images_per_s']:10.0f}  {'' if share is None else f'{share:.0%}'}"
            )
        if "fault" in batches:
            yield f"  {name:44} {batches['fault']}"


def _overhead(kept: Measured) -> Iterator[str]:
    for name, found in kept.get("overhead", {}).items():
        if "fault" in found:
            yield f"overhead, {name}: {found['fault']}"
            continue
        for side in ("host", "GPU"):
            whole, over = found[f"run, {side}"], found[f"over, {side}"]
            yield (
                f"overhead, {name}, batch on the {side}: {whole:.1f} µs, "
                f"{over:.1f} µs over the bare call"
            )


# ---- bars ----------------------------------------------------------------------------------------


def bars(kept: Measured) -> Iterator[tuple[str, str]]:
    """Each bar, and whether what was measured reaches it."""
    yield "every precision verified on the GPU itself", _verified(kept)
    own = {
        batch: _best(kept, (f"{engine} fp16" for engine in OWN), batch)
        for batch in ("1", "8", "64", "256")
    }
    rates, (weights, macs) = _only(kept, "rates"), _net(kept)
    first = own["1"]
    if first is None or not rates.get("read"):
        yield "batch 1, fp16: ≤ 3 × reading the weights once", "not measured"
    else:
        times = first[1]["p50_ms"] / (2 * weights / rates["read"] * 1e3)
        bar = "batch 1, fp16: ≤ 3 × reading the weights once"
        yield bar, _verdict(times <= 3, f"{times:.1f} × by {first[0]}")
    fastest = max(
        (found for found in own.values() if found is not None),
        key=lambda found: found[1]["images_per_s"],
        default=None,
    )
    if fastest is None or not rates.get("fp16"):
        yield "throughput, fp16: ≥ 45 % of the measured products", "not measured"
    else:
        share = fastest[1]["images_per_s"] * macs / rates["fp16"]
        bar = "throughput, fp16: ≥ 45 % of the measured products"
        yield bar, _verdict(share >= 0.45, f"{share:.0%} by {fastest[0]}")
    for rival in RIVALS:
        for batch, best in own.items():
            other = _best(kept, (rival,), batch)
            known = best is not None and other is not None
            faster = other[1]["p50_ms"] / best[1]["p50_ms"] if known else None  # type: ignore[index]
            result = "not measured" if faster is None else _verdict(faster > 1, f"{faster:.2f} ×")
            yield f"faster than {rival} at batch {batch}", result
    over = [
        (found[f"over, {side}"], f"{name}, batch on the {side}")
        for name, found in kept.get("overhead", {}).items()
        if "fault" not in found
        for side in ("host", "GPU")
    ]
    bar = "Python per call over the bare call: ≤ 10 µs"
    most, where = max(over, default=(0.0, ""))
    yield bar, _verdict(most <= 10, f"{most:.1f} µs, {where}") if over else "not measured"


def _verified(kept: Measured) -> str:
    """Whether an engine of the GPU passed in each precision, and none failed."""
    results = {}
    for precision in PRECISIONS:
        backends = kept.get("verify", {}).get(precision, {}).get("backends", {})
        ran = [passed for name, (passed, _) in backends.items() if name in OWN]
        results[precision] = None if not any(p is not None for p in ran) else False not in ran
    words = {True: "passed", False: "failed", None: "not measured"}
    detail = ", ".join(f"{precision} {words[passed]}" for precision, passed in results.items())
    if all(passed is None for passed in results.values()):
        return "not measured"
    if False not in results.values() and None in results.values():
        return f"not measured in all ({detail})"
    return _verdict(all(results.values()), detail)


def _best(kept: Measured, names: Iterable[str], batch: str) -> tuple[str, Measured] | None:
    """The fastest of these at a batch, by name, that was measured."""
    speed, found = kept.get("speed", {}), []
    for name in names:
        for task in (name, f"{name} at {batch}"):  # one for all batches, or for this one
            if (times := speed.get(task, {}).get(batch)) is not None:
                found.append((name, times))
    return min(found, key=lambda each: each[1]["p50_ms"], default=None)


def _verdict(passed: bool | None, detail: str = "") -> str:
    if passed is None:
        return "not measured"
    return ("reached" if passed else "MISSED") + (f" ({detail})" if detail else "")


def _share(kept: Measured, name: str, batch: int, images_per_s: float) -> float | None:
    """What of the shortest possible time a contestant takes; None without the rates for it."""
    from alexc.frontend import load_net
    from alexc.plan.limit import layer_limits, net_limit

    rates = {key: value for key, value in _only(kept, "rates").items() if value}
    precision = next((p for p in ("tf32", "fp32", "bf16", "int8") if p in name.split()), "fp16")
    if "read" not in rates or precision not in rates:
        return None
    if precision == "tf32":  # numbers of four bytes, multiplied in another way
        rates, precision = {**rates, "fp32": rates["tf32"]}, "fp32"
    limits = layer_limits(load_net(_spec(kept)).graph, rates, precision, batch, None)
    return None if limits is None else net_limit(limits).total_ms / 1e3 * images_per_s / batch


def _spec(kept: Measured) -> Path:
    return ROOT / "specs" / f"{kept.get('net', 'alexnet')}.yaml"


def _net(kept: Measured) -> tuple[int, int]:
    """The parameters of the net, and its multiply–accumulates for an image."""
    from alexc.frontend import load_net

    graph = load_net(_spec(kept)).graph
    nodes = graph.nodes
    return sum(node.parameter_count for node in nodes), sum(node.macs for node in nodes)


# ---- what was kept -------------------------------------------------------------------------------


def _only(kept: Measured, part: str) -> Measured:
    """The result of a part that has one setting."""
    found: Measured = kept.get(part, {}).get("", {"fault": "not measured"})
    return found


def _head(title: str, found: Measured) -> Iterator[str]:
    yield ""
    yield title + (f": {found['fault']}" if "fault" in found else "")
