"""CUDA kernel: the compiled step of a program, bound to a batch of parameters on a device, and run without a wait.

What stays equal from step to step lies in tables on the device, which are uploaded when a batch is bound. The addresses
of gradients and a row of scalars that all parameters share come by value with each launch. Scalars that differ between
parameters are copied in the order of the stream.
"""

import ctypes
from array import array
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.engine.core.batch import ParameterBatch
from thalweg.engine.core.memory_probe import MemoryProbe
from thalweg.engine.kernels.cuda import grid
from thalweg.engine.kernels.cuda.call import call_structure, row_length
from thalweg.engine.kernels.cuda.driver import Device, KernelLaunch, Module, device_of
from thalweg.engine.kernels.cuda.source import WIDTH, launches
from thalweg.engine.kernels.kernel import MAX_REDUCTION_BYTES, BoundKernel, Kernel, shared_row
from thalweg.engine.kernels.kernel_spec import UnavailableError
from thalweg.engine.kernels.passes import Passes


class CudaKernel(Kernel):
    """The compiled step of one program, for parameters of one dtype, on devices of one architecture.

    Args:
        image: The compiled image.
        passes: The passes that it was printed from.
        num_grads: The number of gradients that one launch takes.
        memory_probe: Reads the layouts of tensors; None if there is no C compiler.
    """

    def __init__(self, image: bytes, passes: Passes, num_grads: int, memory_probe: MemoryProbe | None) -> None:
        super().__init__(passes)
        self.num_grads, self.memory_probe = num_grads, memory_probe
        self._image = image
        self._modules: dict[torch.device, Module] = {}

    def module(self, device: Device) -> Module:
        """Return the image as it is loaded on a device.

        Raises:
            UnavailableError: If it cannot be loaded.
        """
        if device.torch_device not in self._modules:
            self._modules[device.torch_device] = device.load(self._image)
        return self._modules[device.torch_device]

    def bind(self, batch: ParameterBatch) -> "BoundCudaKernel":
        """Return the kernel with the addresses of a batch."""
        device = device_of(batch.device)
        assert device is not None, "the batch lies on a CUDA device"
        return BoundCudaKernel(self, batch, device)


class _Call(NamedTuple):
    """The argument of a launch.

    Attributes:
        fields: The struct.
        tensors: The numbers of the tensors whose gradients it holds.
        num_chunks: The number of their chunks.
        arguments: The address of the struct, as the driver wants it.
        grads_at: The address of its gradients.
        row_at: The address of its scalars.
    """

    fields: Any
    tensors: range
    num_chunks: int
    arguments: "ctypes.Array[ctypes.c_void_p]"
    grads_at: int
    row_at: int


class BoundCudaKernel(BoundKernel):
    """A CUDA kernel with the addresses of a batch.

    Args:
        kernel: The kernel.
        batch: The parameters.
        device: The device on which they lie.

    Raises:
        UnavailableError: If the kernel cannot run the batch, or the device has no memory left for its tables.
    """

    def __init__(self, kernel: CudaKernel, batch: ParameterBatch, device: Device) -> None:
        super().__init__(kernel.passes, batch)
        self.kernel, self._device = kernel, device
        passes = kernel.passes
        self._sizes = [grid.sizes(passes, param.shape) for param in batch.params]
        self._num_scalars = row_length(len(passes.recording.coefficients))
        try:
            with torch.inference_mode(False):  # scalars are copied to a table in other modes, too
                self._create_tables()
            module = kernel.module(device)
        except torch.OutOfMemoryError as error:
            raise UnavailableError(f"{batch.device} has no memory left for the tables of its kernel") from error
        self._calls = self._create_calls()
        self._launches, self.numbered_launches, self.shared_launches = self._create_launches(module)
        self._streams = {device.stream()}
        self.group: tuple[int, ...] = (id(self),)
        batch.memory_probe = kernel.memory_probe

    # --- binding ------------------------------------------------------------------------------------------------------

    def _create_tables(self) -> None:
        """Upload what stays equal from step to step, and reserve memory for reductions and scalars."""
        passes, batch, count = self.passes, self.batch, len(self.batch.params)
        lengths = [grid.reduction_lengths(passes, sizes) for sizes in self._sizes]
        num_doubles = sum(map(sum, lengths))
        if 8 * num_doubles > MAX_REDUCTION_BYTES:
            raise UnavailableError(f"its sums would take {8e-6 * num_doubles:.0f} MB")
        by_column = list(chain.from_iterable(zip(*lengths, strict=True)))
        num_model = max(1, len(passes.model_reductions))

        def reserve(length: int) -> Tensor:
            return torch.empty(max(1, length), dtype=torch.float64, device=batch.device)

        self._reductions, self._model, self._parts = reserve(num_doubles), reserve(num_model), reserve(num_model)
        self._rows = reserve(count * self._num_scalars if batch.program.needs_keys else 0)
        start = self._reductions.data_ptr()
        addresses = array("Q", batch.addresses[:count] + array("Q", bytes(8 * count)) + batch.addresses[count:])
        addresses.extend(start + 8 * offset for offset in accumulate(by_column[:-1], initial=0) if by_column)
        self._num_chunks = [grid.num_chunks(passes, sizes) for sizes in self._sizes]
        chunks = array("i", chain.from_iterable((t, k) for t, num in enumerate(self._num_chunks) for k in range(num)))
        tables = [array("q", chain.from_iterable(self._sizes)).tobytes(), addresses.tobytes(), chunks.tobytes()]
        content = bytearray(b"".join(tables))
        self._tables = torch.frombuffer(content, dtype=torch.uint8).to(batch.device, copy=True)
        offsets = accumulate(map(len, tables[:-1]), initial=self._tables.data_ptr())
        self._table_addresses = dict(zip(("sizes", "at", "chunks"), offsets, strict=True))

    def _create_calls(self) -> list["_Call"]:
        """Return the argument of each launch that covers all tensors together: each has room for some gradients."""
        count, capacity = len(self._sizes), self.kernel.num_grads
        structure = call_structure(len(self.passes.recording.coefficients), capacity)
        calls, first_chunk = [], 0
        for first in range(0, count, capacity):
            tensors = range(first, min(first + capacity, count))
            num_chunks = sum(self._num_chunks[first : tensors.stop])
            fields = structure(
                count=count,
                first_tensor=first,
                first_chunk=first_chunk,
                part=0,
                num_parts=1,
                model_numel=self.batch.num_elements,
                model=self._model.data_ptr(),
                parts=self._parts.data_ptr(),
                **self._table_addresses,
            )
            address = ctypes.addressof(fields)
            arguments = (ctypes.c_void_p * 1)(address)
            places = (address + structure.grad.offset, address + structure.row.offset)
            calls.append(_Call(fields, tensors, num_chunks, arguments, *places))
            first_chunk += num_chunks
        return calls

    def _create_launches(
        self, module: Module
    ) -> tuple[list[KernelLaunch], list[tuple[int, KernelLaunch]], dict[int, KernelLaunch]]:
        """Return the launches of a step, in order; also with their passes; and those for several kernels, by pass."""
        numbered, shared = [], {}
        for kernel in launches(self.passes):
            function = module.function(kernel.name)
            if kernel.extent == "shared":
                shared[kernel.number] = KernelLaunch(function, 1, self._calls[0].arguments)
                continue
            for call in self._calls[:1] if kernel.extent == "once" else self._calls:
                blocks = {"chunks": call.num_chunks, "slices": kernel.blocks_per_tensor * len(call.tensors), "once": 1}
                if blocks[kernel.extent]:  # parameters without elements have no chunks
                    numbered.append((kernel.number, KernelLaunch(function, blocks[kernel.extent], call.arguments)))
        return [launch for _, launch in numbered], numbered, shared

    # --- steps --------------------------------------------------------------------------------------------------------

    def begin_at(self, grads: "array[int]", coefficients: Sequence[Any], repeated: int = 1) -> None:
        """Prepare a step with gradients by their addresses."""
        shared = shared_row(coefficients)
        values = array("d", coefficients[0] if shared else chain.from_iterable(coefficients))
        if not shared:
            self._upload_rows(values * repeated)
        grads_at, row_at = grads.buffer_info()[0], values.buffer_info()[0]
        for call in self._calls:
            ctypes.memmove(call.grads_at, grads_at + 8 * call.tensors.start, 8 * len(call.tensors))
            if shared:
                ctypes.memmove(call.row_at, row_at, 8 * len(values))
            call.fields.rows = 0 if shared else self._rows.data_ptr()

    def begin_captured(
        self, grads: "array[int]", rows: Tensor, skip: Tensor | None, grad_factor: Tensor | None
    ) -> None:
        """Prepare a step whose scalars are on the device."""
        self._on_device = rows, skip, grad_factor  # in use until the launch; then the stream orders the next use
        for call in self._calls:
            ctypes.memmove(call.grads_at, grads.buffer_info()[0] + 8 * call.tensors.start, 8 * len(call.tensors))
            call.fields.rows = rows.data_ptr()
            call.fields.skip = 0 if skip is None else skip.data_ptr()
            call.fields.grad_factor = 0 if grad_factor is None else grad_factor.data_ptr()

    def _upload_rows(self, rows: "array[float]") -> None:
        if self._rows.numel() < len(rows):
            with torch.inference_mode(False):
                self._rows = torch.empty(len(rows), dtype=torch.float64, device=self.batch.device)
            self._streams.clear()
        self._device.upload(rows, self._rows)

    def run_together(self, bound_kernels: Sequence["BoundCudaKernel"]) -> None:
        """Launch the steps that have begun of this kernel and of others on its device, which share their reductions."""
        self._share_reductions(bound_kernels)
        stream = self._device.stream()
        for bound_kernel in bound_kernels:
            bound_kernel.hold_tables(stream)
        if len(bound_kernels) == 1:
            self._device.launch(self._launches, WIDTH, stream)
            return
        for call in self.passes.calls:
            for bound_kernel in bound_kernels:
                own = [launch for number, launch in bound_kernel.numbered_launches if number in call]
                self._device.launch(own, WIDTH, stream)
            joined = [launch for number, launch in bound_kernels[-1].shared_launches.items() if number in call]
            self._device.launch(joined, WIDTH, stream)

    def hold_tables(self, stream: int) -> None:
        """Keep the memory of the tables from other use until all steps on a stream are complete."""
        if stream not in self._streams:
            self._streams.add(stream)
            self._device.hold([self._tables, self._reductions, self._model, self._parts, self._rows])

    def _share_reductions(self, bound_kernels: Sequence["BoundCudaKernel"]) -> None:
        """Let kernels write partial results of reductions over the model side by side, and read the same results."""
        group = tuple(map(id, bound_kernels))
        if all(bound_kernel.group == group for bound_kernel in bound_kernels):
            return
        model = self._model
        parts = torch.empty(len(group) * model.numel(), dtype=torch.float64, device=model.device)
        numel = sum(bound_kernel.batch.num_elements for bound_kernel in bound_kernels)
        for position, bound_kernel in enumerate(bound_kernels):
            bound_kernel.join(group, position, numel, model, parts)

    def join(self, group: tuple[int, ...], position: int, numel: int, model: Tensor, parts: Tensor) -> None:
        """Take part in the reductions of several kernels.

        Args:
            group: The ids of the bound kernels.
            position: The position of this one.
            numel: The elements of all their parameters.
            model: Memory for the results of reductions over the model.
            parts: Memory for their partial results.
        """
        self.group, self._model, self._parts = group, model, parts
        self._streams.clear()
        for call in self._calls:
            call.fields.part, call.fields.num_parts, call.fields.model_numel = position, len(group), numel
            call.fields.model, call.fields.parts = model.data_ptr(), parts.data_ptr()
