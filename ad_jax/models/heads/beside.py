"""Actions, and room beside them: outputs for what else a method predicts of a step."""

import dataclasses

from jaxtyping import Float32, Key, Num

from ad_jax.models.heads.base import Head
from ad_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Beside:
    """The head `action` on the first of the outputs; `more` numbers after them are the method's."""

    action: Head
    more: int

    @property
    def size(self) -> int:
        """See `Head`."""
        return self.action.size + self.more

    def of_action(self, outputs: Float32[Array, "*B size"]) -> Float32[Array, "*B action_size"]:
        """Return the outputs of the action's head."""
        return outputs[..., : self.action.size]

    def of_more(self, outputs: Float32[Array, "*B size"]) -> Float32[Array, "*B more"]:
        """Return the others."""
        return outputs[..., self.action.size :]

    def log_prob(self, outputs: Float32[Array, "*B size"], target: Num[Array, "..."]) -> Float32[Array, "*B"]:
        """See `Head`."""
        return self.action.log_prob(self.of_action(outputs), target)

    def sample(
        self, outputs: Float32[Array, "B size"], keys: Key[Array, " B"], temperature: float = 1.0
    ) -> Num[Array, "B *S"]:
        """See `Head`."""
        return self.action.sample(self.of_action(outputs), keys, temperature)

    def greedy(self, outputs: Float32[Array, "*B size"]) -> Num[Array, "..."]:
        """See `Head`."""
        return self.action.greedy(self.of_action(outputs))

    def highest(self, outputs: Float32[Array, "*B size"]) -> Float32[Array, "*B"]:
        """See `Head`."""
        return self.action.highest(self.of_action(outputs))
