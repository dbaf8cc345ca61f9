"""The level of `service.services.scaling` from the whole history, in plain Python."""


def level_of(observations, now_s, window_s):
    """Replay every (time, raw, held) and every moment at which one stops counting."""
    moments = {now_s} | {at_s for at_s, _, _ in observations}
    moments |= {at_s + window_s for at_s, _, _ in observations}
    level = 0
    for moment in sorted(moment for moment in moments if moment <= now_s):
        seen = [row for row in observations if row[0] <= moment]
        if not seen:
            continue
        raw = seen[-1][1]
        ends = [row[0] for row in seen[1:]] + [float("inf")]
        recent = [held for (_, _, held), end in zip(seen, ends, strict=True) if end > moment - window_s]
        level = raw if len(seen) == 1 and level == 0 else max(raw, min(level, max(recent)))
    return level
