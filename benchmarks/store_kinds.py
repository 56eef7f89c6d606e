"""What each kind of a labelled transfer set costs on disk, and what it loses.

    LIMBECK_DATA=data python benchmarks/store_kinds.py       # about five minutes on one core

Bytes per token are those of a Parquet file (zstd), ids and headers included, of 4,096 positions over 151,936 classes.
There is no model of that size here, so the rows are made, with the statistics of next-token distributions: classes
are popular as 1 / (id + 10) times e^N(0, 1). Of each row, some candidates (1 to 5,000, log-uniform, drawn by
popularity) share all but 0.01 to 20 % of the mass by a power law of their rank (exponent 0.7 to 4, noise
e^N(0, 0.5)); the rest goes to all classes by popularity times e^N(0, 2). Beside them, with LIMBECK_DATA, 4,096
positions of stories260k (512 classes, hidden states of 64) on stories of tinystories_sample.

    KL          of the exact events from the decoded ones (K + 1 of top_k), in nats, mean over rows
    gradient    |g - dense| / |dense| of d KL / d student logits, L2 over a row's classes, mean over rows; the
                student has 0.8 of the teacher's logits and N(0, 1) on each
    exact       top-k targets that are not encoded: what is lost with the classes left out, and with a tail made at
                T = 1 that is read at another temperature; "made at T" is made where it is read

DistillKit is the recommended setting of its README, rebuilt: of k log-probabilities, sorted, 16 in bfloat16 and a
least-squares fit of the terms 1, t, t^2, t^3, t^4 and sqrt(t) in float32 to the others; ids in 18 bits: 344 bytes
at k = 128, before zstd. It keeps no tail; here it is given what is left of 1, spread evenly over the other classes.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

import limbeck
from limbeck.losses.divergences import forward_kl
from limbeck.losses.targets import DenseTargets, HiddenTargets, SampledTargets, SparseTargets
from limbeck.store.kinds import kind_from

OUTPUT = Path("runs/benchmarks")
CLASSES, EXAMPLE = 151_936, 128  # positions of one example, which is one row of the file
TEMPERATURES = (1.0, 2.0, 4.0)
KINDS = [
    kind_from("top_k", k=64),
    kind_from("top_k", k=128),
    kind_from("top_k", k=64, bits=16),
    kind_from("top_k", k=128, bits=16),
]
AT_MOST = {"top_k k=64 bits=8": 200, "top_k k=128 bits=8": 344, "hidden int8, H = 1,024": 1_100}
HIDDEN_KL = 1e-3


def main() -> None:
    """Prints the tables and writes runs/benchmarks/store_kinds.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096, help="positions that are written")
    parser.add_argument("--error_rows", type=int, default=256, help="of them, those whose errors are measured")
    chosen = parser.parse_args()
    started = time.perf_counter()
    found: dict[str, Any] = {"torch": torch.__version__, "pyarrow": pa.__version__, "rows": chosen.rows}

    found["made rows"] = statistics(made_rows(256, seed=0))
    found["bytes"] = bytes_on_disk(chosen.rows)
    print("\nErrors over 151,936 classes")
    found["errors"] = errors(made_rows(chosen.error_rows, seed=1))
    print("\nThe tail read at other temperatures, from exact log-probabilities, k = 64")
    found["tail"] = tail_errors(made_rows(min(chosen.error_rows, 128), seed=1))
    print("\nThe mean gradient of `sampled`, k = 64, over draws")
    found["unbiased"] = unbiased(next(made_rows(8, seed=3)))
    real = stories()
    if real is None:
        print("\nstories260k: skipped; set LIMBECK_DATA to a folder with stories260k/ and tinystories_sample/.")
    else:
        print("\nErrors on stories260k, 512 classes")
        found["rows of stories260k"] = statistics(real[i : i + 512].logits for i in range(0, len(real), 512))
        found["errors on stories260k"] = errors(real[i : i + 512].logits for i in range(0, len(real), 512))
        found["every class on stories260k"] = complete_errors(real)
    found["minutes"] = (time.perf_counter() - started) / 60
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "store_kinds.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    missed = misses(found)
    print("\n" + ("\n".join(f"missed: {text}" for text in missed) or "Every figure is within what was wanted."))
    print(f"{found['minutes']:.1f} minutes; torch {torch.__version__}, pyarrow {pa.__version__}")
    if missed:
        sys.exit(1)


def made_rows(rows: int, seed: int, at_once: int = 64) -> Iterator[Tensor]:
    """Logits `[m, 151936]` with the statistics of next-token distributions, in float32: see above."""
    generator = torch.Generator().manual_seed(seed)
    popular = torch.randn(CLASSES, generator=torch.Generator().manual_seed(99)) - (torch.arange(CLASSES) + 10.0).log()
    for start in range(0, rows, at_once):
        logits = torch.empty(min(at_once, rows - start), CLASSES)
        for row in logits:
            u = torch.rand(3, generator=generator).tolist()
            candidates, exponent, rest = round(5000 ** u[0]), 0.7 + 3.3 * u[1], 1e-4 * 2000 ** u[2]
            drawn = popular - torch.empty(CLASSES).exponential_(generator=generator).log()
            ids = drawn.topk(candidates).indices
            shares = 0.5 * torch.randn(candidates, generator=generator)
            shares = (shares - exponent * (torch.arange(candidates) + 1.0).log()).log_softmax(-1)
            row[:] = (popular + 2 * torch.randn(CLASSES, generator=generator)).log_softmax(-1) + math.log(rest)
            row[ids] = torch.logaddexp(row[ids], shares + math.log1p(-rest))
        yield logits


def statistics(batches: Iterable[Tensor]) -> dict[str, list[float]]:
    """The 5, 50 and 95 % quantiles of what the rows are like, printed."""
    told: dict[str, list[Tensor]] = {}
    for logits in batches:
        log_p = logits.log_softmax(-1)
        told.setdefault("entropy", []).append(-(log_p.exp() * log_p).sum(-1))
        for k in (64, 128):
            left = log_p.scatter(-1, log_p.topk(k).indices, -torch.inf).logsumexp(-1).exp()
            told.setdefault(f"tail of k = {k}", []).append(left)
    at = torch.tensor([0.05, 0.5, 0.95])
    quantiles = {name: torch.cat(parts).quantile(at).tolist() for name, parts in told.items()}
    print("; ".join(f"{name} {a:.3g}, {b:.3g}, {c:.3g}" for name, (a, b, c) in quantiles.items()), "(5, 50, 95 %)")
    return quantiles


def bytes_on_disk(rows: int) -> dict[str, float]:
    """Bytes per token of every kind, printed."""
    kinds: dict[str, Any] = {called(kind): kind for kind in [*KINDS, kind_from("sampled")]}
    parts: dict[str, list[dict[str, np.ndarray]]] = {}
    shuffle = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(5)
    seconds = dict.fromkeys(kinds, 0.0)
    for logits in made_rows(rows, seed=2):
        for name, kind in kinds.items():
            started = time.perf_counter()
            parts.setdefault(name, []).append(kind.encode(DenseTargets(logits), generator))
            seconds[name] += time.perf_counter() - started
        shuffled = DenseTargets(logits[:, shuffle])
        for kind in KINDS[:2]:
            parts.setdefault(f"{called(kind)}, popularity unrelated to ids", []).append(kind.encode(shuffled))
        for k in (64, 128):
            parts.setdefault(f"DistillKit k={k}", []).append({"packed": distillkit(logits, k)[1]})
            apart = distillkit(shuffled.logits, k)[1]
            parts.setdefault(f"DistillKit k={k}, popularity unrelated to ids", []).append({"packed": apart})
    sizes = {}
    for name, some in parts.items():
        columns = {column: np.concatenate([part[column] for part in some]) for column in some[0]}
        kind = kinds.get(name.split(",")[0])
        sizes[name] = file_size(columns, kind.parquet() if kind else {}) / rows
    half = kind_from("dense").encode(DenseTargets(next(made_rows(EXAMPLE, seed=2, at_once=EXAMPLE))))
    sizes["dense float16"] = file_size(half, kind_from("dense").parquet()) / EXAMPLE
    for dtype in ("float16", "bfloat16", "int8"):
        kind = kind_from("hidden", dtype=dtype)
        sizes[f"hidden {dtype}, H = 1,024"] = file_size(kind.encode(made_states(rows)), kind.parquet()) / rows
    print(f"\n{'bytes per token, of which in a share of dense float16':56}")
    for name, size in sizes.items():
        encoded = f"{1e3 * seconds[name] / rows:8.2f} ms per row to encode" if name in seconds else ""
        print(f"{name:56}{size:10,.1f}   1 / {2 * CLASSES / size:<8,.0f}{encoded}", flush=True)
    return sizes


def made_states(rows: int) -> HiddenTargets:
    """Hidden states of H = 1,024 in float32: normal, in dimensions of unlike size (e^N(0, 0.3))."""
    generator = torch.Generator().manual_seed(4)
    size = torch.randn(1024, generator=generator).mul(0.3).exp()
    states = torch.randn(rows, 1024, generator=generator) * size
    return HiddenTargets(states, limbeck.Head(torch.zeros(1, 1024)))


def file_size(columns: dict[str, np.ndarray], encodings: dict[str, str]) -> int:
    """Bytes of the Parquet file of these columns, 128 positions to a row."""
    lists = {}
    for name, array in columns.items():
        if name == "packed":
            width = array.shape[1]
            lists[name] = pa.Array.from_buffers(pa.binary(width), len(array), [None, pa.py_buffer(array.tobytes())])
            continue
        ends = np.append(np.arange(0, len(array), EXAMPLE), len(array)).astype(np.int32)
        positions = pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
        lists[name] = pa.ListArray.from_arrays(pa.array(ends), positions)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.parquet")
        pq.write_table(
            pa.table(lists),
            path,
            compression="zstd",
            use_dictionary=[f"{name}.list.element.list.element" for name in columns if name not in encodings],
            column_encoding={f"{name}.list.element.list.element": encoding for name, encoding in encodings.items()},
        )
        return path.stat().st_size


def distillkit(logits: Tensor, k: int, exact: int = 16) -> tuple[SparseTargets, np.ndarray]:
    """Its log-probabilities as targets, and the bytes `[n, B]` of a position."""
    log_p = logits.log_softmax(-1)
    top, ids = log_p.topk(k)
    t = torch.arange(k - exact, dtype=torch.float64) / (k - exact)
    terms = torch.stack([torch.ones_like(t), t, t**2, t**3, t**4, t.sqrt()], -1)
    weights = torch.linalg.lstsq(terms, top[:, exact:].double().T).solution.float()  # [6, n]
    first = top[:, :exact].bfloat16()
    decoded = torch.cat([first.float(), (terms.float() @ weights).T], -1)
    left = (1 - decoded.double().exp().sum(-1)).clamp(min=1e-9).log().float()
    classes = logits.shape[1]
    bits = math.ceil(math.log2(classes))
    packed = np.packbits(
        (ids.numpy()[:, :, None] >> np.arange(bits)[None, None] & 1).astype(np.uint8).reshape(len(ids), -1), -1
    )
    values = [first.view(torch.int16).numpy(), weights.T.contiguous().numpy()]
    kept = np.concatenate([packed, *(v.view(np.uint8).reshape(len(ids), -1) for v in values)], -1)
    return SparseTargets(ids, decoded, classes, left, left - math.log(classes - k)), kept


def errors(batches: Iterable[Tensor]) -> dict[str, dict[str, list[float]]]:
    """Mean KL and relative error of the gradient by way and temperature, printed; batches of logits."""
    sums: dict[str, Tensor] = {}
    rows = 0
    generator = torch.Generator().manual_seed(6)
    for logits in batches:
        rows += len(logits)
        student = 0.8 * logits + torch.randn(logits.shape, generator=generator)
        ways = {called(kind): decoded(kind, DenseTargets(logits)) for kind in KINDS}
        for k in (64, 128):
            exact = SparseTargets.from_logits(logits.double(), k)
            ways[f"exact k={k}"] = exact
            ways[f"exact k={k}, float16"] = replace(exact, log_probs=exact.log_probs.half().float())
            ways[f"DistillKit k={k}"] = distillkit(logits, k)[0]
        for number, temperature in enumerate(TEMPERATURES):
            log_v = (logits.double() / temperature).log_softmax(-1)  # in float32, a sum over so many is 1e-5 off
            made_at = kind_from("top_k", k=64, temperature=temperature)
            ways["top_k k=64 bits=8, made at T"] = decoded(made_at, DenseTargets(logits))
            dense = gradient(DenseTargets(logits), student, temperature)
            for name, targets in ways.items():
                exact, kept = targets.events(log_v, temperature)
                sums.setdefault(name, torch.zeros(2, len(TEMPERATURES), dtype=torch.float64))
                sums[name][0, number] += forward_kl(kept.double(), exact.double()).sum()
                off = gradient(targets, student, temperature) - dense
                sums[name][1, number] += (off.norm(dim=-1) / dense.norm(dim=-1)).sum()
    print(f"{rows:,} rows{'':24}KL at T = 1        2        4   gradient at T = 1        2        4")
    means = {name: (both / rows).tolist() for name, both in sums.items()}
    for name, (kl, slope) in sorted(means.items()):
        print(
            f"{name:32}" + "".join(f"{x:10.1e}" for x in kl) + f"{'':8}" + "".join(f"{x:9.2%}" for x in slope),
            flush=True,
        )
    return {name: {"KL": kl, "gradient": slope} for name, (kl, slope) in means.items()}


def decoded(kind: Any, targets: Any) -> Any:
    """Once there and back."""
    columns = {name: torch.from_numpy(column) for name, column in kind.encode(targets).items()}
    return kind.decode(columns, targets.num_classes, getattr(targets, "head", None))


def gradient(targets: Any, student: Tensor, temperature: float) -> Tensor:
    """d KL / d logits of the student, `[n, C]`."""
    z = student.clone().requires_grad_()
    value = forward_kl(*targets.events((z / temperature).log_softmax(-1), temperature)).sum()
    return torch.autograd.grad(value, z)[0]


def tail_errors(batches: Iterable[Tensor]) -> dict[str, list[float]]:
    """How far log S(T) of the tail is off, and the KL that this alone makes; printed."""
    temperatures = (1.0, 1.5, 2.0, 4.0, 8.0, 32.0, 1000.0)
    off: dict[float, list[Tensor]] = {}
    for logits in batches:
        targets = SparseTargets.from_logits(logits.double(), 64)
        for temperature in temperatures:
            exact, kept = targets.events((logits.double() / temperature).log_softmax(-1), temperature)
            kl = forward_kl(kept.double(), exact.double())
            odds = [(e[:, -1] - e[:, :-1].logsumexp(-1)).double() for e in (kept, exact)]
            off.setdefault(temperature, []).append(torch.stack([odds[0] - odds[1], exact[:, -1].exp().double(), kl]))
    print(f"{'T':>6}{'log S: mean off':>18}{'|off|, 95 %':>14}{'mass of the tail':>18}{'KL':>12}")
    found = {}
    for temperature, parts in off.items():
        difference, mass, kl = torch.cat(parts, -1)
        told = [difference.mean(), difference.abs().quantile(0.95), mass.mean(), kl.mean()]
        found[f"{temperature:g}"] = [float(x) for x in told]
        print(f"{temperature:6g}{told[0]:18.3f}{told[1]:14.3f}{told[2]:18.3f}{told[3]:12.1e}")
    return found


def unbiased(logits: Tensor, k: int = 64) -> dict[str, float]:
    """|mean gradient - dense| / |dense| over all rows; what sampling explains beside it; printed."""
    log_p = logits.log_softmax(-1)
    generator = torch.Generator().manual_seed(8)
    q = (0.8 * logits + torch.randn(logits.shape, generator=generator)).softmax(-1)
    dense, p = q - log_p.exp(), log_p.exp()
    found, counts, draws = {}, torch.zeros_like(p), 0
    for wanted in (1, 16, 256, 4096):
        while draws < wanted:
            some = min(256, wanted - draws)
            ids = SampledTargets.draw(logits, k * some, generator=generator).ids
            counts.scatter_add_(-1, ids, torch.ones(ids.shape))
            draws += some
        off = (q - counts / (k * draws) - dense).norm() / dense.norm()  # the gradient is q - weights
        explained = ((p * (1 - p)).sum() / (k * draws)).sqrt() / dense.norm()
        found[f"sampled, {draws} draws"] = off.item()
        print(f"{f'sampled, mean of {draws} draws':40}{off:9.2%}   expected of an unbiased one {explained:9.2%}")
    found["expected of the last"] = explained.item()
    top, ids = log_p.topk(k)
    renormalised = torch.zeros_like(p).scatter_(-1, ids, top.softmax(-1))
    tail = decoded(kind_from("top_k", k=k), DenseTargets(logits))
    student = q.log()
    ways = {
        f"top_k k={k} renormalised, no tail": q - renormalised,
        f"top_k k={k} bits=8": gradient(tail, student, 1.0),
    }
    for name, slope in ways.items():
        found[name] = ((slope - dense).norm() / dense.norm()).item()
        print(f"{name:40}{found[name]:9.2%}   however many are averaged")
    return found


def stories(positions: int = 4096) -> HiddenTargets | None:
    """What stories260k says of stories that it can read."""
    folder = Path(os.environ.get("LIMBECK_DATA", "absent"))
    if not (folder / "stories260k").is_dir():
        return None
    from datasets import Dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "stories260k")
    text = Path(folder, "tinystories_sample", "tinystories_sample.txt").read_text(encoding="utf-8")
    records = [{"text": story.strip()} for story in text.split("<|endoftext|>")[:40]]
    rows = limbeck.tokenise(Dataset.from_list(records), tokenizer, max_length=256)
    batch = limbeck.Pad(tokenizer.eos_token_id)([rows[i] for i in range(len(rows))])
    said = limbeck.ModelTeacher(limbeck.load(folder / "stories260k"))(batch)
    assert isinstance(said, HiddenTargets)
    return said[:positions]


def complete_errors(targets: HiddenTargets) -> dict[str, dict[str, list[float]]]:
    """The same errors of the kinds that keep every class; printed."""
    student = 0.8 * targets.logits + torch.randn(targets.logits.shape, generator=torch.Generator().manual_seed(6))
    found = {}
    for kind in (kind_from("dense"), *(kind_from("hidden", dtype=dtype) for dtype in ("float16", "bfloat16", "int8"))):
        read, kl, slope = decoded(kind, targets), [], []
        for temperature in TEMPERATURES:
            log_v = (targets.logits.double() / temperature).log_softmax(-1)
            kl.append(forward_kl(read.events(log_v, temperature)[1].double(), log_v))
            dense = gradient(targets, student, temperature)
            off = gradient(read, student, temperature) - dense
            slope.append((off.norm(dim=-1) / dense.norm(dim=-1)).mean().item())
        found[called(kind)] = {"KL": [x.mean().item() for x in kl], "gradient": slope}
        means = "".join(f"{x.mean().item():10.1e}" for x in kl) + f"{'':8}" + "".join(f"{x:9.2%}" for x in slope)
        print(f"{called(kind):32}{means}   largest KL at T = 1: {kl[0].max().item():.1e}")
    return found


def called(kind: Any) -> str:
    """Its name and options, less a temperature of 1."""
    settings = {name: value for name, value in kind.settings().items() if (name, value) != ("temperature", 1.0)}
    return " ".join([settings.pop("kind"), *(f"{name}={value}" for name, value in settings.items())])


def misses(found: dict[str, Any]) -> list[str]:
    """What is not within what was wanted."""
    sizes = found["bytes"]
    missed = [
        f"{name}: {sizes[name]:.0f} bytes (at most {most})" for name, most in AT_MOST.items() if sizes[name] > most
    ]
    for k in (64, 128):
        ours, theirs = f"top_k k={k} bits=8", f"DistillKit k={k}"
        for ids in ("", ", popularity unrelated to ids"):
            if sizes[ours + ids] > sizes[theirs + ids]:
                missed.append(f"{ours + ids}: {sizes[ours + ids]:.0f} bytes, {theirs} {sizes[theirs + ids]:.0f}")
        for where in ("errors", "errors on stories260k"):
            for what in ("KL", "gradient") if where in found else ():
                pairs = zip(found[where][ours][what], found[where][theirs][what], TEMPERATURES, strict=True)
                missed += [
                    f"{where}: {what} of {ours} at T = {t:g}: {a:.2g}, of {theirs} {b:.2g}"
                    for a, b, t in pairs
                    if a > b
                ]
    whole = found.get("every class on stories260k", {})
    kl = whole["hidden dtype=int8"]["KL"][0] if whole else 0.0
    return missed + ([f"hidden int8 on stories260k: KL {kl:.2g} (at most {HIDDEN_KL})"] if kl > HIDDEN_KL else [])


if __name__ == "__main__":
    main()
