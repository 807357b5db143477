"""The shared part of all encoders: e^(0) from ids and features, the table of encoders, and messages along the edges.

An encoder turns e^(0) of users and songs into their embeddings. The formula of each encoder stands in one file:
`music_map.model.lightgcnpp` (the default), `lightgcn` or `mf`. docs/extending.md shows how to add one from outside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from music_map.axis import WHOLE, NodeLayout
from music_map.model import fusion
from music_map.model.propagation import Adjacency, spmm, spmm_rows
from music_map.model.settings import ENCODERS, ModelSettings

Params = dict[str, Any]


class EncoderInputs(NamedTuple):
    """The inputs of the encoder besides its parameters: the graph and the songs' features, on the device.

    Attributes:
      adjacency: the bipartite graph.
      features: the songs' features, or None if the model uses id embeddings alone.
      layout: where rows lie. If rows are partitioned, `adjacency` and `features` have this device's rows.
    """

    adjacency: Adjacency
    features: fusion.Features | None
    layout: NodeLayout = WHOLE


class Embeddings(NamedTuple):
    """A row for each user and each song: float32 [U, d] and [I, d], or columns [U, 1] and [I, 1]."""

    user: jax.Array
    item: jax.Array


class Encoded(NamedTuple):
    """Embeddings of users [U, d] and songs [I, d] and their e^(0), of all nodes or of the wanted rows. float32."""

    user: jax.Array
    item: jax.Array
    base: Embeddings


class Wanted(NamedTuple):
    """The rows that an encoder must return.

    Attributes:
      rows: users int32 [B] and songs int32 [N], repeats allowed; None: all of both.
      base: their e^(0).
    """

    rows: Embeddings | None
    base: Embeddings

    def of(self, x: Embeddings) -> Embeddings:
        """These rows of x."""
        return x if self.rows is None else Embeddings(x.user[self.rows.user], x.item[self.rows.item])


class Messages(NamedTuple):
    """What songs send to a user, over all layers: e_u = base e_u^(0) + d_u^power sum_i w_ui items_i.

    The sum runs over the user's edges. If embeddings have unit length ("cosine"), e_u is normalised afterwards.

    Attributes:
      items: float32 [I, d].
      power: float32 [], of the user's degree; a user without edges has the embedding base e_u^(0).
      base: float32 [].
    """

    items: jax.Array
    power: jax.Array
    base: jax.Array


class Encoder:
    """An encoder: pure functions over parameters.

    A subclass defines `apply`, `init` if it has own parameters, and `messages` if users are sums over their songs.
    """

    def init(self, key: jax.Array, settings: ModelSettings) -> Params:
        """Parameters besides those of e^(0), under other names than these. None may have a row for each node."""
        del key, settings
        return {}

    def apply(
        self, params: Params, inputs: EncoderInputs, settings: ModelSettings, base: Embeddings, wanted: Wanted
    ) -> Embeddings:
        """The embeddings of the rows in `wanted`.

        Args:
          params: all parameters, also those of `init`.
          inputs: graph and features. A song that a training step treats as never listened to has the degree 0: no
            message may reach or leave it.
          settings: static.
          base: e^(0) of all nodes. The embeddings must depend on node-wise parameters only through it.
          wanted: the rows to return. A training step is cheapest if the last layer computes these rows alone, see
            `receive`.
        """
        raise NotImplementedError

    def messages(
        self, params: Params, inputs: EncoderInputs, settings: ModelSettings, base: Embeddings
    ) -> Messages | None:
        """What each song sends to a user; `music_map.model.fold_in` places new users by it.

        Args:
          params, inputs, settings, base: see `apply`.

        Returns:
          None if a user's embedding is no such sum; new users are then placed by a regression.
        """
        del params, inputs, settings, base
        return None


@dataclasses.dataclass(frozen=True)
class Entry:
    """An encoder in the table, and its settings: ModelSettings or a subclass with further fields."""

    encoder: Encoder
    settings: type[ModelSettings]


E = TypeVar("E", bound=type[Encoder])


def register(name: str, *, settings: type[ModelSettings] = ModelSettings) -> Callable[[E], E]:
    """Decorates a class that is an encoder: `config.model.name` can then be its name."""

    def add(cls: E) -> E:
        ENCODERS.register(name, Entry(cls(), settings))
        return cls

    return add


# The least norm. If only directions matter (gamma = 0), l2 shrinks an embedding until its squares underflow.
LEAST_NORM = 1e-4


def l2_normalize(x: jax.Array) -> jax.Array:
    """x / max(||x||, 1e-4) along the last axis; a zero row stays zero.

    The gradient of a plain norm is NaN at zero, and nodes without edges are zero from the first layer on.
    """
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, LEAST_NORM**2))


def degree_power(adjacency: Adjacency, exponent: float) -> Embeddings:
    """degree^exponent as columns [U, 1], [I, 1]; 0 for nodes without edges."""

    def power(degree: jax.Array) -> jax.Array:
        positive = degree > 0
        return jnp.where(positive, jnp.where(positive, degree, 1.0) ** exponent, 0.0)[:, None]

    return Embeddings(power(adjacency.user_degree), power(adjacency.item_degree))


def receive(
    inputs: EncoderInputs, settings: ModelSettings, sent: Embeddings, rows: Embeddings | None = None
) -> Embeddings:
    """One propagation: y_u = sum_{i in N(u)} w_ui sent_i for users, y_i = sum_{u in N(i)} w_ui sent_u for songs.

    Args:
      inputs: the graph with its edge weights w.
      settings: storage and backend of the products.
      sent: of all nodes, [U, d] and [I, d].
      rows: the wanted receivers (`Wanted.rows`); a batch needs only its own rows of the last layer. None: all.

    Returns:
      float32 [U, d] and [I, d], or [B, d] and [N, d] for `rows`.
    """
    matrix, axis = inputs.adjacency.users_from_items, inputs.layout.axis
    users, items = (x.astype(settings.storage) for x in sent)
    if rows is None:
        user, item = spmm(matrix, items, settings.backend, axis), spmm(matrix.T, users, settings.backend, axis)
    else:
        user = spmm_rows(matrix, items, rows.user, settings.backend)
        item = spmm_rows(matrix.T, users, rows.item, settings.backend)
    scale = inputs.adjacency.item_scale
    return Embeddings(user, item if scale is None else scale * item)


def init(key: jax.Array, settings: ModelSettings, inputs: EncoderInputs) -> Params:
    """Draws the parameters.

    Args:
      key: JAX random key.
      settings: the encoder.
      inputs: of the whole graph; degrees and features set the shapes.

    Returns:
      {"user": [U, d], "item": [I, d]} ~ N(0, init_std^2), float32; "fusion" if there are features; and the encoder's
      own parameters.
    """
    user_key, item_key, fusion_key = jax.random.split(key, 3)
    num_users, num_items = inputs.adjacency.user_degree.shape[0], inputs.adjacency.item_degree.shape[0]
    d = settings.embedding_dim
    params: Params = {
        "user": settings.init_std * jax.random.normal(user_key, (num_users, d), jnp.float32),
        "item": settings.init_std * jax.random.normal(item_key, (num_items, d), jnp.float32),
    }
    if inputs.features is not None:
        params["fusion"] = fusion.init(fusion_key, inputs.features, embedding_dim=d, init_std=settings.init_std)
    return params | ENCODERS.find(settings.name).encoder.init(jax.random.fold_in(key, 3), settings)


def known_songs(inputs: EncoderInputs, settings: ModelSettings, dropout_key: jax.Array | None) -> jax.Array:
    """Songs with a train edge, without those that `dropout_key` drops in a training step: bool [I]."""
    known, layout = inputs.adjacency.item_degree > 0, inputs.layout
    if inputs.features is None or dropout_key is None or settings.id_dropout == 0:
        return known
    num_items = layout.item_slot.shape[0] if layout.partitioned else known.shape[0]
    kept = jax.random.bernoulli(dropout_key, 1.0 - settings.id_dropout, (num_items,))
    return known & layout.own_items(kept, known.shape[0], fill=False)


def base_embeddings(params: Params, inputs: EncoderInputs, settings: ModelSettings, known: jax.Array) -> Embeddings:
    """e^(0) of users [U, d] and songs [I, d]; see `known_songs`."""
    if inputs.features is None:
        return Embeddings(params["user"], params["item"])
    # A song without a train edge has an untrained id embedding: only its features are used.
    content = fusion.apply(params["fusion"], inputs.features, known, backend=settings.backend)
    return Embeddings(params["user"], params["item"] * known[:, None] + content)


def encode(
    params: Params,
    inputs: EncoderInputs,
    settings: ModelSettings,
    dropout_key: jax.Array | None = None,
    rows: Embeddings | None = None,
) -> Encoded:
    """Encodes all users and songs, or only some rows at less cost.

    Args:
      params: from `init`.
      inputs: graph and features.
      settings: the encoder; static under jit, with a resolved backend (not "auto").
      dropout_key: random key of a training step, None otherwise.
      rows: users int32 [B] and songs int32 [N], repeats allowed; only if rows are not partitioned. None: all.

    Returns:
      Embeddings [U, d], [I, d] and e^(0), all float32. If rows are partitioned, U and I count this device's slots.
    """
    known, seen = _seen(inputs, settings, dropout_key)
    base = base_embeddings(params, inputs, settings, known)
    # Rows are taken from e^(0) and from each layer, not from their sum: this avoids the gradient of the whole sum.
    wanted = Wanted(rows, Wanted(rows, base).of(base))
    out = ENCODERS.find(settings.name).encoder.apply(params, seen, settings, base, wanted)
    if settings.score == "cosine":
        out = jax.tree.map(l2_normalize, out)
    return Encoded(*out, wanted.base)


def messages(params: Params, inputs: EncoderInputs, settings: ModelSettings) -> Messages | None:
    """What the songs of the whole graph send to a user, see `Encoder.messages`; songs without edges send 0."""
    if not has_messages(settings):
        return None
    known, seen = _seen(inputs, settings, None)
    base = base_embeddings(params, inputs, settings, known)
    return ENCODERS.find(settings.name).encoder.messages(params, seen, settings, base)


def has_messages(settings: ModelSettings) -> bool:
    """Whether the encoder's users are sums over their songs, see `Encoder.messages`."""
    return settings.num_layers > 0 and type(ENCODERS.find(settings.name).encoder).messages is not Encoder.messages


def _seen(
    inputs: EncoderInputs, settings: ModelSettings, dropout_key: jax.Array | None
) -> tuple[jax.Array, EncoderInputs]:
    """The known songs, and the inputs in which the others have the degree 0."""
    known = known_songs(inputs, settings, dropout_key)
    degree = jnp.where(known, inputs.adjacency.item_degree, 0.0)
    return known, inputs._replace(adjacency=inputs.adjacency._replace(item_degree=degree))
