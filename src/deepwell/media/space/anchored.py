"""`anchored`: turns a vector of the space into one that compares with e5's vectors of queries as they are.

The space has e5's vectors without what all of them share, their centre. A store of passages holds vectors with it, and so are
its queries. The vector of a picture gets the centre back: `unit(centre + SHARE * vector)`.

NOTE: the share.
  The less of the vector, the nearer are all pictures to every query, asked for or not; the more, the farther is a picture from
  the query that describes it, because text and picture never lie as near as two texts do. At 0.35 a picture that has nothing to
  do with a query lies as near to it as the nearest passage of another subject does (median cosine 0.83, `knowledge.fuse.E5`).
  Measured on 250 development pictures, asked by their titles among 1,000 texts:
    share  own picture  other pictures  own among the first 10  a picture before the query's own text
    0.20   0.885        0.867           0.60                    0.8 %
    0.35   0.858        0.830           0.58                    0.0 %
    0.50   0.818        0.780           0.31                    0.0 %
  `tests/media/space/test_anchored.py` prints these numbers.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from deepwell.media.space.heads import Array, unit
from deepwell.media.space.weights import SHIPPED, SpaceWeights

__all__ = ["SHARE", "anchored"]

SHARE: Final = 0.35


def anchored(vector: Array, centre: Array | None = None, share: float = SHARE) -> Array:
    """Returns vectors of the space [.., 384] as unit vectors that compare with e5's own.

    Args:
        centre: what e5's vectors share; None: that of the shipped weights.
    """
    shared = SpaceWeights.centre_of(SHIPPED) if centre is None else centre
    return unit((shared + share * vector).astype(np.float32))
