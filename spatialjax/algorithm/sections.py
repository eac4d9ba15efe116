"""Sections that share parameters: one model on a stacked batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from spatialjax.algorithm.adaptors import weighted_mean
from spatialjax.algorithm.core import Model


def joint(model: Model, local: Sequence[str] = (), *, how: Literal["scan", "vmap"] = "scan") -> Model:
    """One model for all sections of a stacked batch: the loss is the sum over the sections of sums and of weights.

    Parameters
    ----------
    model
        Model of one section. Under ``alternate`` wrap each loss: ``joint(model._replace(loss=...)).loss``.
    local
        Groups of ``params`` that each section has for itself: tables with one row a section. The other groups start as
        they do for the first section.
    how
        ``"scan"`` takes one section after the other and computes it again for the gradient, in the memory of one
        section; ``"vmap"`` all at once.

    Returns
    -------
    Model
        Its data are a pytree whose leaves have the sections first (see ``spatialjax.slices.stack``), and its read-out
        gives a batch of results. ``aux`` and metrics are the means over the sections, weighted as the loss. For
        sections that were not fitted see ``unseen``.

    Raises
    ------
    ValueError
        When run: if ``local`` names no group, or the local tables were fitted to another number of sections.
    """

    def init(key: Any, data: Any) -> tuple[dict[str, Any], Any]:
        params, aux = model.init(key, jax.tree.map(lambda leaf: leaf[0], data))
        _check_local(params, local)
        keys = _keys(key, data)
        if local:
            tables = jax.vmap(lambda key, one: {name: model.init(key, one)[0][name] for name in local})(keys, data)
            params = {**params, **tables}
        return params, aux

    def loss(params: dict[str, Any], aux: Any, key: Any, data: Any) -> Any:
        shared, tables = _part(params, local, data)

        def one(shared: Any, member: Any) -> Any:
            key, own, section = member
            (total, weight), (new, metrics) = model.loss({**shared, **own}, aux, key, section)
            weight = jnp.asarray(weight)
            kept = jax.tree.map(lambda leaf: jnp.asarray(leaf) * weight, (new, metrics))
            return jnp.asarray(total), weight, kept

        members = (_keys(key, data), tables, data)
        if how == "vmap":
            total, weight, kept = jax.tree.map(lambda leaf: leaf.sum(0), jax.vmap(one, (None, 0))(shared, members))
        else:
            again = jax.checkpoint(one)
            shapes = jax.eval_shape(one, shared, jax.tree.map(lambda leaf: leaf[0], members))
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

            def add(sums: Any, member: Any) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, sums, again(shared, member)), None

            (total, weight, kept), _ = jax.lax.scan(add, zeros, members)
        new, metrics = jax.tree.map(lambda leaf: weighted_mean(leaf, weight), kept)
        new = jax.tree.map(lambda mean, old: mean.astype(jnp.result_type(old)), new, aux)
        return (total, weight), (new, metrics)

    def readout(key: Any, params: dict[str, Any], aux: Any, data: Any) -> Any:
        shared, tables = _part(params, local, data)

        def one(member: Any) -> Any:
            key, own, section = member
            return model.readout(key, {**shared, **own}, aux, section)

        members = (_keys(key, data), tables, data)
        return jax.vmap(one)(members) if how == "vmap" else jax.lax.map(one, members)

    return Model(init, loss, readout)


def unseen(params: dict[str, Any], local: Sequence[str]) -> dict[str, Any]:
    """Parameters of ``joint`` for sections that were not fitted: each local table is replaced by its mean.

    Parameters
    ----------
    params
        Fitted parameters.
    local
        As given to ``joint``.
    """
    _check_local(params, local)
    means = {name: jax.tree.map(lambda leaf: leaf.mean(0, keepdims=True), params[name]) for name in local}
    return {**params, **means}


def _check_local(params: dict[str, Any], local: Sequence[str]) -> None:
    missing = sorted(set(local) - set(params))
    if missing:
        raise ValueError(f"Expected local groups among {sorted(params)}, found {missing}.")


def _count(data: Any) -> int:
    return jax.tree.leaves(data)[0].shape[0]


def _keys(key: Any, data: Any) -> Any:
    return jax.vmap(lambda member: jax.random.fold_in(key, member))(jnp.arange(_count(data)))


def _part(params: dict[str, Any], local: Sequence[str], data: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shared groups, and the local ones with one row for each section of ``data``."""
    count = _count(data)
    tables = {name: params[name] for name in local}
    rows = {leaf.shape[0] for leaf in jax.tree.leaves(tables)} - {1, count}
    if rows:
        raise ValueError(
            f"Expected {count} sections in the local tables, found {max(rows)}: for sections that were not fitted, "
            "read out with spatialjax.algorithm.unseen(params, local)."
        )
    tables = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape[1:])), tables)
    return {name: value for name, value in params.items() if name not in local}, tables
