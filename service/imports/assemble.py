"""From what sources tell to a workload document, with everything that was guessed or left out counted."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from service.errors import ImportSourceError
from service.imports.observations import SEEN_FIELDS, Seen, listed
from twin.calibration import shipped_calibration_ids
from twin.domain import MAX_ID_LENGTH, is_adapter_id
from twin.traffic import MAX_RATE_RPS, MAX_TOKENS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.imports.observations import Observations

SHAREGPT_INPUT_TOKENS = 223.0
SHAREGPT_OUTPUT_TOKENS = 197.0
"""Mean lengths of ShareGPT's requests, where no adapter's are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guesses:
    """What stands in where no source tells.

    Attributes
    ----------
    base_model, gpu_type
        As in a calibration's id; None takes what the sources name, and the only GPU type that is calibrated.
    rank
        Of adapters whose rank no source tells; None refuses them.
    input_tokens, output_tokens
        Mean lengths; None takes the mean of the other adapters, weighted by rate, else ShareGPT's.
    unseen_rate_rps
        Of adapters that no source saw a request for; None takes one request a window, 0 leaves them out.
    exclude
        Names that are no adapters, such as the served name of the base model.
    """

    base_model: str | None = None
    gpu_type: str | None = None
    rank: int | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    unseen_rate_rps: float | None = None
    exclude: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A workload document and how it came about.

    Attributes
    ----------
    document
        The workload as JSON values, as ``POST /place`` takes it.
    guessed, dropped
        How often what was guessed or left out, by a reader's words.
    notes
        What else a reader should know.
    """

    document: dict[str, Any]
    guessed: Mapping[str, int]
    dropped: Mapping[str, int]
    notes: Sequence[str]


@dataclass(slots=True)
class _Account:
    guessed: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def assemble(told: Sequence[Observations], guesses: Guesses) -> Imported:
    """Return the workload that sources tell of together.

    A field of an adapter comes from the first source that tells it. An adapter is one that any source
    knows; but where a source tells ranks, names without a rank are taken for adapters only if `guesses`
    gives them one.

    Raises
    ------
    ImportSourceError
        Where base model, GPU type, ranks or rates stay unknown.
    """
    account = _Account()
    for source in told:
        account.dropped.update({f"{source.source}: {why}": count for why, count in source.dropped.items()})
        account.notes.extend(f"{source.source}: {note}" for note in source.notes)
    base_model = _base_model(told, guesses, account)
    gpu_type = _gpu_type(base_model, guesses, account)
    merged = _merged(told, account)
    _leave_out(merged, told, guesses, account)
    ranked = _with_ranks(merged, guesses, account)
    rated = _with_rates(ranked, told, guesses, account)
    adapters = [
        _document(name, seen) for name, seen in sorted(_with_lengths(rated, guesses, account).items())
    ]
    if not adapters:
        raise ImportSourceError("no adapter is left after what was dropped")
    document = {"base_model": base_model, "gpu_type": gpu_type, "adapters": adapters}
    return Imported(document=document, guessed=account.guessed, dropped=account.dropped, notes=account.notes)


def _merged(told: Sequence[Observations], account: _Account) -> dict[str, Seen]:
    merged: dict[str, Seen] = {}
    for source in told:
        for name, seen in source.adapters.items():
            known = merged.get(name, Seen())
            for field_name in SEEN_FIELDS:
                both = getattr(known, field_name) is not None and getattr(seen, field_name) is not None
                if both and getattr(known, field_name) != getattr(seen, field_name):
                    account.dropped[f"{source.source}: {field_name} that an earlier source tells"] += 1
            merged[name] = Seen(**{name: _either(known, seen, name) for name in SEEN_FIELDS})
    return merged


def _either(known: Seen, seen: Seen, name: str) -> Any:
    value = getattr(known, name)
    return getattr(seen, name) if value is None else value


def _leave_out(
    merged: dict[str, Seen], told: Sequence[Observations], guesses: Guesses, account: _Account
) -> None:
    """Take away what is no adapter: excluded names, the base model, and names that no workload takes."""
    bases = {source.base_model for source in told if source.base_model is not None}
    for name in list(merged):
        if name in guesses.exclude:
            reason = f"{name}: excluded"
        elif name in bases:
            reason = f"{name}: the base model itself, no adapter"
        elif not is_adapter_id(name):
            reason = f"{name[:40]!r}: no valid id (1 to {MAX_ID_LENGTH} characters, no control character)"
        else:
            continue
        account.dropped[reason] += 1
        del merged[name]


def _with_ranks(merged: Mapping[str, Seen], guesses: Guesses, account: _Account) -> dict[str, Seen]:
    without = [name for name, seen in merged.items() if seen.rank is None]
    if not without:
        return dict(merged)
    if guesses.rank is not None:
        account.guessed[f"rank {guesses.rank}"] += len(without)
        return {name: replace(seen, rank=seen.rank or guesses.rank) for name, seen in merged.items()}
    if len(without) == len(merged):
        raise ImportSourceError(
            "no source tells a rank: add the folder of the adapters as a source, or give --rank",
            field="--rank",
        )
    account.dropped[
        f"names whose rank no source tells ({listed(sorted(without))}); --rank would keep them"
    ] += len(without)
    return {name: seen for name, seen in merged.items() if seen.rank is not None}


def _with_rates(
    merged: Mapping[str, Seen], told: Sequence[Observations], guesses: Guesses, account: _Account
) -> dict[str, Seen]:
    without = {name for name, seen in merged.items() if not seen.rate_rps}
    rate_rps = guesses.unseen_rate_rps
    if without and rate_rps is None:
        windows = [source.window_s for source in told if source.window_s is not None]
        if not windows:
            raise ImportSourceError(
                f"no source counts the requests of {len(without)} adapters ({listed(sorted(without))}): "
                "add a log, a metric or a table of rates, or give --unseen-rate-rps",
                field="--unseen-rate-rps",
            )
        rate_rps = 1 / max(windows)
    if without and rate_rps == 0:
        account.dropped["adapters without a request"] += len(without)
    elif without:
        account.guessed[f"rate {rate_rps:.3g} requests/s, of adapters without a request"] += len(without)
    rated = {
        name: replace(seen, rate_rps=seen.rate_rps or rate_rps)
        for name, seen in merged.items()
        if seen.rate_rps or rate_rps
    }
    for name, seen in rated.items():
        if not 0 < (seen.rate_rps or 0) <= MAX_RATE_RPS:
            raise ImportSourceError(
                f"the rate of {name} must be in (0, {MAX_RATE_RPS:g}] requests/s, got {seen.rate_rps}",
                field="rate_rps",
            )
    return rated


def _with_lengths(rated: Mapping[str, Seen], guesses: Guesses, account: _Account) -> dict[str, Seen]:
    filled = dict(rated)
    for name, given, sharegpt in (
        ("input_tokens_mean", guesses.input_tokens, SHAREGPT_INPUT_TOKENS),
        ("output_tokens_mean", guesses.output_tokens, SHAREGPT_OUTPUT_TOKENS),
    ):
        known = [(seen.rate_rps or 0, getattr(seen, name)) for seen in filled.values() if getattr(seen, name)]
        if given is not None:
            mean, origin = given, "as given"
        elif known:
            mean, origin = sum(r * t for r, t in known) / sum(r for r, _ in known), "mean of the others"
        else:
            mean, origin = sharegpt, "ShareGPT's mean"
        guessed = [adapter for adapter, seen in filled.items() if not getattr(seen, name)]
        if guessed:
            account.guessed[f"{name} {mean:.4g}, {origin}"] += len(guessed)
        long = [adapter for adapter, seen in filled.items() if (getattr(seen, name) or 0) > MAX_TOKENS]
        if long:
            raise ImportSourceError(f"{name} of {long[0]} must be <= {MAX_TOKENS}", field=name)
        for adapter, seen in filled.items():
            filled[adapter] = replace(seen, **{name: max(1.0, getattr(seen, name) or mean)})
    return filled


def _document(name: str, seen: Seen) -> dict[str, Any]:
    row: dict[str, Any] = {"id": name}
    for field_name in SEEN_FIELDS:
        value = getattr(seen, field_name)
        if value is not None:
            row[field_name] = value if isinstance(value, int) else float(f"{value:.6g}")
    return row


def _base_model(told: Sequence[Observations], guesses: Guesses, account: _Account) -> str:
    if guesses.base_model is not None:
        return guesses.base_model
    known = sorted({calibration.split("/")[1] for calibration in shipped_calibration_ids()})
    named = next((source.base_model for source in told if source.base_model is not None), None)
    if named is None:
        raise ImportSourceError(
            f"must be given, for no source names the base model: {' or '.join(known)}",
            field="--base-model",
        )
    found = [model for model in known if _bare(named).endswith(_bare(model))]
    if not found:
        raise ImportSourceError(
            f"must be {' or '.join(known)}: {named} is not calibrated (`loadmaster agent` calibrates others)",
            field="--base-model",
        )
    account.guessed[f"base_model {found[0]}, from {named}"] += 1
    return found[0]


def _gpu_type(base_model: str, guesses: Guesses, account: _Account) -> str:
    if guesses.gpu_type is not None:
        return guesses.gpu_type
    found = sorted(
        {each.split("/")[0] for each in shipped_calibration_ids() if each.split("/")[1] == base_model}
    )
    if len(found) != 1:
        known = f", known are {', '.join(found)}" if found else ""
        raise ImportSourceError(f"must be given for {base_model}{known}", field="--gpu-type")
    account.guessed[f"gpu_type {found[0]}, the only one calibrated"] += 1
    return found[0]


def _bare(name: str) -> str:
    """Return a model's name without owner, case and signs: ``meta-llama/Llama-3.1-8B`` is ``llama318b``."""
    return re.sub(r"[^a-z0-9]", "", name.rsplit("/", 1)[-1].casefold())
