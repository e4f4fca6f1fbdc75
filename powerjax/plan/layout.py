"""How a run can be laid out on hardware, and what each device then holds and does.

`roofline` computes these figures.
"""

from typing import NamedTuple


class Layout(NamedTuple):
    """Sampling with each copy of the model split over `model_axis` devices.

    Attributes:
      model_axis: devices per engine.
      num_engines: engines, each with a copy of the model.
      room: bytes of one device that programs get.
      weights: bytes of weights on one device.
      slot: bytes per slot on one device.
      buffers: bytes of the largest transient on one device: a batch of prompts in prefill.
      num_slots: slots per engine; 0 where not even one fits.
      step_s: seconds per model step by the roofline. A step moves each of an engine's slots by one
        token.
    """

    model_axis: int
    num_engines: int
    room: int
    weights: int
    slot: int
    buffers: int
    num_slots: int
    step_s: float

    @property
    def all_slots(self) -> int:
        """Slots over all engines."""
        return self.num_engines * self.num_slots

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of all engines while all slots are busy."""
        return self.all_slots / self.step_s if self.num_slots else 0.0

    def seconds(self, chains: int, forward_tokens: float) -> float:
        """Returns how long it takes to draw `chains` chains of `forward_tokens` tokens in all.

        It is no less than what one chain of average length takes alone.
        """
        if not chains:
            return 0.0
        return self.step_s * max(forward_tokens / self.all_slots, forward_tokens / chains)


class Training(NamedTuple):
    """The student's training step on a mesh.

    Attributes:
      batch_size: examples per step.
      data_axis: rows of the mesh, each of which takes a part of the batch.
      model_axis: devices per row, which share the weights.
      fsdp: whether the weights are split over the rows as well.
      room: bytes of one device that programs get.
      weights: bytes of weights on one device.
      adapter: bytes of the adapter on one device: float32, with AdamW's two moments.
      activations: bytes of activations on one device, of one example at a time.
      tokens_per_s: tokens per second on all devices, by the roofline.
    """

    batch_size: int
    data_axis: int
    model_axis: int
    fsdp: bool
    room: int
    weights: int
    adapter: int
    activations: int
    tokens_per_s: float

    @property
    def num_bytes(self) -> int:
        """Bytes that a step needs on one device."""
        return self.weights + self.adapter + self.activations

    @property
    def fits(self) -> bool:
        """Whether a device has that room."""
        return self.num_bytes <= self.room
