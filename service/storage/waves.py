"""A wave: many rows of a design to simulate, handed out in batches, each batch's result counted once.

Rows wait as eight bytes each. Only a window of batches stands in the queue at a time; the next ones follow as
results come, so a million simulations cost the store their numbers and no more.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from service.storage.connection import store_call

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis
    from numpy.typing import NDArray

ROW_BYTES = 8
ROWS_A_WRITE = 65_536

TAKE = """
local taken = {}
local cursor = tonumber(redis.call('HGET', KEYS[1], 'cursor') or '0')
local batches = tonumber(redis.call('HGET', KEYS[1], 'num_batches') or '0')
local room = tonumber(ARGV[1]) - redis.call('SCARD', KEYS[2])
while room > 0 and cursor < batches do
  redis.call('SADD', KEYS[2], cursor)
  taken[#taken + 1] = cursor
  cursor = cursor + 1
  room = room - 1
end
redis.call('HSET', KEYS[1], 'cursor', cursor)
return taken
"""
"""Move batches into the window, as many as there is room for."""

COMMIT = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('SREM', KEYS[2], ARGV[1])
if redis.call('SETBIT', KEYS[3], ARGV[1], 1) == 1 then return 0 end
redis.call('HSET', KEYS[4], ARGV[1], ARGV[2])
redis.call('HINCRBY', KEYS[1], 'num_done', 1)
redis.call('HINCRBY', KEYS[1], 'rows_done', ARGV[3])
return 1
"""
"""Count a batch's result, unless it was counted before or the wave is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveState:
    """How a wave stands; numbers of batches and of rows."""

    num_batches: int
    num_done: int
    num_rows: int
    rows_done: int
    num_held: int

    @property
    def is_done(self) -> bool:
        """Whether every batch was counted."""
        return self.num_done >= self.num_batches


class Wave:
    """One wave of one job, by number."""

    def __init__(self, client: redis.Redis, job_id: str, number: int) -> None:
        self._client = client
        prefix = f"loadmaster:{{wave:{job_id}:{number}}}"
        self._state, self._open = f"{prefix}:state", f"{prefix}:open"
        self._done, self._parts, self._rows = f"{prefix}:done", f"{prefix}:parts", f"{prefix}:rows"

    def open(self, rows: NDArray[np.int64], rows_a_batch: int) -> None:
        """State which rows it has; opened twice with the same rows, what was counted stays."""
        num_batches = -(-len(rows) // rows_a_batch)
        with store_call():
            if self._client.exists(self._state):
                return
            self._client.delete(self._rows)
            for first in range(0, len(rows), ROWS_A_WRITE):
                chunk = rows[first : first + ROWS_A_WRITE].astype("<i8").tobytes()
                self._client.setrange(self._rows, first * ROW_BYTES, chunk)  # type: ignore[arg-type]
            numbers = {"num_batches": num_batches, "num_rows": len(rows), "rows_a_batch": rows_a_batch}
            numbers |= {"num_done": 0, "rows_done": 0, "cursor": 0}
            self._client.hset(self._state, mapping=numbers)  # type: ignore[arg-type]

    def state(self) -> WaveState | None:
        """Return how it stands, None where it was not opened."""
        with store_call():
            found: dict[bytes, bytes] = self._client.hgetall(self._state)  # type: ignore[assignment]
            held = int(self._client.hlen(self._parts))  # type: ignore[arg-type]
        if not found:
            return None
        numbers = {name.decode(): int(value) for name, value in found.items()}
        return WaveState(
            num_batches=numbers["num_batches"],
            num_done=numbers["num_done"],
            num_rows=numbers["num_rows"],
            rows_done=numbers["rows_done"],
            num_held=held,
        )

    def take(self, window: int) -> list[int]:
        """Return batches to queue now, so that at most `window` are open."""
        with store_call():
            return [int(index) for index in self._client.eval(TAKE, 2, self._state, self._open, window)]  # type: ignore[union-attr]

    def open_batches(self) -> list[int]:
        """Return the batches that were taken and not counted yet."""
        with store_call():
            return sorted(int(index) for index in self._client.smembers(self._open))  # type: ignore[union-attr]

    def rows_of(self, index: int) -> NDArray[np.int64]:
        """Return the rows of a batch, (num_rows_of_batch,) int64."""
        with store_call():
            size = int(self._client.hget(self._state, "rows_a_batch") or 0)  # type: ignore[arg-type]
            first = index * size * ROW_BYTES
            content = self._client.getrange(self._rows, first, first + size * ROW_BYTES - 1)
        return np.frombuffer(content, dtype="<i8").astype(np.int64)  # type: ignore[arg-type]

    def commit(self, index: int, columns: NDArray[np.float64]) -> bool:
        """Count a batch's result; False where it was counted before, or nobody waits for it any more."""
        content = zlib.compress(np.ascontiguousarray(columns, dtype="<f8").tobytes(), 1)
        keys = (self._state, self._open, self._done, self._parts)
        with store_call():
            return bool(self._client.eval(COMMIT, 4, *keys, index, content, len(columns)))

    def held(self, num_columns: int, limit: int) -> dict[int, NDArray[np.float64]]:
        """Return up to `limit` results that the store holds, by batch."""
        with store_call():
            names: Sequence[bytes] = self._client.hkeys(self._parts)[:limit]  # type: ignore[index]
            contents = self._client.hmget(self._parts, names) if names else []  # type: ignore[arg-type]
        return {
            int(name): np.frombuffer(zlib.decompress(content), dtype="<f8").reshape(-1, num_columns)  # type: ignore[arg-type]
            for name, content in zip(names, contents, strict=True)  # type: ignore[arg-type]
            if content is not None
        }

    def release(self, indices: Sequence[int]) -> None:
        """Forget results that are on disk; they stay counted."""
        if indices:
            with store_call():
                self._client.hdel(self._parts, *map(str, indices))

    def expire(self, after_s: int | None) -> None:
        """Forget all of it after a while, unless somebody says None before."""
        with store_call():
            for key in (self._state, self._open, self._done, self._parts, self._rows):
                if after_s is None:
                    self._client.persist(key)
                else:
                    self._client.expire(key, after_s)

    def close(self) -> None:
        """Forget all of it; a batch that still runs is not counted."""
        with store_call():
            self._client.delete(self._state, self._open, self._done, self._parts, self._rows)
