"""Queries and responses as one row of tokens, ready for a model.

Letters: B rows; Q, R tokens of the longest query, response; T all response tokens of the batch; L tokens of the row; P
different queries; V image tokens of a picture; H width; D levels of features beyond the last.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.model.shared_prefix import Layout, make_layout


@dataclass(frozen=True)
class Row:
    """All sequences of a batch side by side.

    Attributes:
        token_ids: [1, L]
        position_ids: [3, 1, L]
        features: [P] of [V, H * (1 + D)].
        layout: where the sequences lie.
        drawn_from: [T] where the token before each response token lies.
    """

    token_ids: Tensor
    position_ids: Tensor
    features: list[Tensor]
    layout: Layout
    drawn_from: Tensor


@dataclass(frozen=True)
class Sequences:
    """Queries and their responses, to be scored.

    Attributes:
        query_ids, query_mask: [B, Q] padded on the left.
        position_ids: [3, B, Q] of the queries.
        features: [B] of [V, H * (1 + D)].
        group: [B] siblings, which have the same query, have the same number and follow each other.
        response_ids, response_mask: [B, R] padded on the right.
    """

    query_ids: Tensor
    query_mask: Tensor
    position_ids: Tensor
    features: list[Tensor]
    group: Tensor
    response_ids: Tensor
    response_mask: Tensor

    def take(self, rows: Tensor) -> "Sequences":
        """Some rows only."""
        return Sequences(
            self.query_ids[rows],
            self.query_mask[rows],
            self.position_ids[:, rows],
            [self.features[row] for row in rows.tolist()],
            self.group[rows],
            self.response_ids[rows],
            self.response_mask[rows],
        )

    def in_parts(self, size: int) -> list[Tensor]:
        """All rows in batches of `size`: siblings together, groups of like length beside each other."""
        length = self.query_mask.sum(1) + self.response_mask.sum(1)
        _, group = self._queries()
        longest = torch.zeros_like(length).scatter_reduce(0, group, length, "amax")
        return list(longest[group].argsort(stable=True).split(size))

    def side_by_side(self) -> Row:
        """Each query once, nothing padded, and without each response's last token, which nothing is drawn from."""
        first, query = self._queries()
        asked = self.query_mask[first]
        reach = torch.arange(self.response_mask.shape[1], device=asked.device)
        read = reach < self.response_mask.sum(1, keepdim=True) - 1
        after = self.position_ids.amax(dim=(0, 2))[:, None] + 1 + reach
        query_ids, query_positions = self.query_ids[first], self.position_ids[:, first]
        of_query, of_response = asked.sum(1), read.sum(1)
        if len(first) == len(query):  # no siblings
            real = torch.cat([asked, read], dim=1)
            token_ids = torch.cat([query_ids, self.response_ids], dim=1)[real]
            position_ids = torch.cat([query_positions, after.expand(3, -1, -1)], dim=2)[:, real]
            layout = make_layout(of_query + of_response)
            end = (of_query + of_response).cumsum(0) - of_response - 1
            start = end + 1
        else:
            token_ids = torch.cat([query_ids[asked], self.response_ids[read]])
            position_ids = torch.cat([query_positions[:, asked], after[read].expand(3, -1)], dim=1)
            layout = make_layout(of_query, of_response, query)
            end = (of_query.cumsum(0) - 1)[query]
            start = of_query.sum() + of_response.cumsum(0) - of_response
        drawn_from = torch.cat([end[:, None], start[:, None] + reach[:-1]], dim=1)[self.response_mask]
        features = [self.features[row] for row in first.tolist()]
        return Row(token_ids[None], position_ids[:, None], features, layout, drawn_from)

    def _queries(self) -> tuple[Tensor, Tensor]:
        """[P] a row that has each query, and [B] which query each row has."""
        _, query, count = self.group.unique_consecutive(return_inverse=True, return_counts=True)
        return count.cumsum(0) - count, query
