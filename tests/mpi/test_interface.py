"""File and Request have every name that mpi4py's have, with the same arguments; and the parts that only an MPI library could mean refuse."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import pinstripe
import pinstripe.mpi
from pinstripe.mpi import File, MPIError, Request

CREATE = MPI.MODE_CREATE | MPI.MODE_RDWR


def public(cls: type) -> list[str]:
    return [name for name in dir(cls) if not name.startswith("_")]


def arguments(method: Any) -> list[tuple[str, str]]:
    """Names and defaults of a method's arguments, as mpi4py's docstrings give them."""
    line = re.search(r"\((.*)\) ->", method.__doc__.splitlines()[0])
    assert line is not None
    parts = [part.strip() for part in re.split(r",\s*(?![^\[]*\])", line.group(1))]
    named = [part for part in parts if part not in ("self", "cls", "/")]
    return [(part.split(":")[0], part.partition("=")[2].strip().strip("'")) for part in named]


def default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return ""
    for name in ("MODE_RDONLY", "SEEK_SET"):
        if isinstance(value, int) and value == getattr(MPI, name):
            return name
    for name in ("INFO_NULL", "BYTE"):
        if isinstance(value, MPI.Info | MPI.Datatype) and value == getattr(MPI, name):
            return name
    return str(value)


PAIRS = [(MPI.File, File), (MPI.Request, Request)]


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_every_public_name_is_there(theirs: type, ours: type) -> None:
    assert set(public(theirs)) - set(public(ours)) == set()
    assert set(public(ours)) - set(public(theirs)) <= {"report"}


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_every_method_has_the_same_arguments_and_defaults(theirs: type, ours: type) -> None:
    for name in public(theirs):
        method = getattr(theirs, name)
        if not callable(method):
            assert isinstance(inspect.getattr_static(ours, name), property), name
            continue
        mine = getattr(ours, name)
        bound = inspect.ismethod(mine)
        assert bound == ("cls" in method.__doc__.splitlines()[0]), name  # class methods are class methods
        parameters = list(inspect.signature(mine).parameters.values())[0 if bound else 1 :]
        assert [(p.name, default(p.default)) for p in parameters] == arguments(method), name


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_every_property_is_as_writable_as_theirs(theirs: type, ours: type) -> None:
    writable = {"info", "atomicity"}
    for name in public(theirs):
        if not callable(getattr(theirs, name)):
            assert (inspect.getattr_static(ours, name).fset is not None) == (name in writable), name


def test_every_docstring_says_whether_a_call_is_collective() -> None:
    for cls in (File, Request):
        for name in public(cls):
            text = inspect.getdoc(inspect.getattr_static(cls, name))
            assert text is not None, name
            assert text.startswith(("Collective.", "Independent.")), name


def test_every_method_is_callable_unbound(ranks: Any, store: Path) -> None:
    file = File.Open(ranks.comm, store / "f", CREATE)
    File.Write_at_all(file, ranks.rank, b"x")
    Request.Wait(File.Iwrite_at(file, ranks.rank, b"y"))
    File.Sync(file)
    assert File.Get_size(file) == ranks.size
    File.Close(file)
    assert not file


def test_handles_exist_for_null_files_and_are_refused_for_open_ones(ranks: Any, store: Path) -> None:
    null = File()
    assert null == File(MPI.FILE_NULL)
    assert (null.handle, null.toint(), null.py2f()) == (
        MPI.FILE_NULL.handle,
        MPI.FILE_NULL.toint(),
        MPI.FILE_NULL.py2f(),
    )
    for back in (File.fromhandle(null.handle), File.fromint(null.toint()), File.f2py(null.py2f())):
        assert back == MPI.FILE_NULL
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        for refused in (lambda: file.handle, file.toint, file.py2f, lambda: File.fromhandle(1), lambda: File.f2py(77)):
            with pytest.raises(MPIError, match="handle") as caught:
                refused()
            assert caught.value.Get_error_class() == MPI.ERR_UNSUPPORTED_OPERATION
        with pytest.raises(pinstripe.ArgumentError):
            File(file)
    request = Request()
    assert request.handle == MPI.REQUEST_NULL.handle
    assert Request.f2py(request.py2f()) == Request.fromint(request.toint()) == MPI.REQUEST_NULL


def test_error_handlers(ranks: Any, store: Path) -> None:
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        assert file.Get_errhandler() == MPI.ERRORS_RETURN
        file.Set_errhandler(MPI.ERRORS_ARE_FATAL)
        assert file.Get_errhandler() == MPI.ERRORS_ARE_FATAL
        file.Set_errhandler(MPI.ERRORS_RETURN)
        file.Call_errhandler(MPI.ERR_IO)
        for refused in (
            lambda: File.Create_errhandler(lambda file, code: None),
            lambda: file.Set_errhandler(MPI.ERRHANDLER_NULL),
        ):
            with pytest.raises(MPIError) as caught:
                refused()
            assert caught.value.Get_error_class() == MPI.ERR_UNSUPPORTED_OPERATION
    File().Set_errhandler(MPI.ERRORS_ARE_FATAL)  # of the null file: what files begin with
    try:
        with File.Open(ranks.comm, store / "f", CREATE) as file:
            assert file.Get_errhandler() == MPI.ERRORS_ARE_FATAL
    finally:
        File().Set_errhandler(MPI.ERRORS_RETURN)


FATAL = """
import sys
from mpi4py import MPI
from pinstripe.mpi import File
if sys.argv[2] == "open":
    File().Set_errhandler(MPI.ERRORS_ARE_FATAL)
    File.Open(MPI.COMM_WORLD, sys.argv[1] + "/none")
file = File.Open(MPI.COMM_WORLD, sys.argv[1] + "/f", MPI.MODE_CREATE | MPI.MODE_RDWR)
file.Set_errhandler(MPI.ERRORS_ABORT)
try:
    file.Seek(-1)
except BaseException:
    print("went on")
"""


@pytest.mark.parametrize("where", ["open", "seek"])
def test_a_fatal_error_handler_ends_the_job_with_the_message(ranks: Any, store: Path, where: str) -> None:
    def run() -> tuple[int, str, str]:
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI_", "PRTE_", "HYDRA", "PMIX"))
        }
        arguments = [sys.executable, "-c", FATAL, str(store), where]
        done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=60)
        return done.returncode, done.stdout, done.stderr

    code, out, error = ranks.once(run)
    assert code != 0
    assert out == ""
    assert ("No such file" if where == "open" else "a seek to -1") in error
    assert "error handler ends the job" in error


def test_a_view_takes_hints_alike_on_all_ranks(ranks: Any, store: Path) -> None:
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        file.Set_view(0, MPI.INT, info=MPI.Info.Create({"romio_cb_read": "enable", "pinstripe_overlap": "error"}))
        used = dict(file.Get_info().items())
        assert (used["romio_cb_read"], used["pinstripe_overlap"]) == ("enable", "error")
        wrong = MPI.Info.Create({"pinstripe_overlap": "sideways"})
        with pytest.raises(pinstripe.ArgumentError, match="overlap"):
            file.Set_view(8, MPI.BYTE, info=wrong if ranks.rank == 0 else MPI.INFO_NULL)
        if ranks.size > 1:
            differing = MPI.Info.Create({"pinstripe_overlap": "higher"})
            with pytest.raises(MPIError) as caught:
                file.Set_view(8, MPI.BYTE, info=differing if ranks.rank else MPI.INFO_NULL)
            assert caught.value.Get_error_class() == MPI.ERR_NOT_SAME
        assert file.Get_view()[:2] == (0, MPI.INT)
        assert dict(file.Get_info().items())["pinstripe_overlap"] == "error"


class Foreign:
    """An array that offers DLPack, and no buffer."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


class Device(Foreign):
    def __dlpack_device__(self) -> Any:
        return 2, 0


class Cuda:
    def __init__(self, array: np.ndarray) -> None:
        self.__cuda_array_interface__ = {**array.__array_interface__, "version": 3}


def test_buffers_of_other_libraries(ranks: Any, store: Path) -> None:
    import array

    values = np.arange(6, dtype=np.int32)
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        for form in (
            array.array("i", values.tolist()),
            bytearray(values.tobytes()),
            Foreign(values),
            [Foreign(values), MPI.INT],
            (Foreign(values), 6, MPI.INT),
            [Foreign(values), (6, 0), MPI.INT],
        ):
            status = MPI.Status()
            file.Write_at_all(24 * ranks.rank, form, status)
            assert status.Get_count(MPI.INT) == 6
            out = np.zeros(6, np.int32)
            file.Read_at_all(24 * ranks.rank, Foreign(out) if isinstance(form, Foreign) else out)
            assert (out == values).all()
            file.Write_at_all(24 * ranks.rank, np.zeros(6, np.int32))
        for nothing in (None, [None, 0, MPI.INT], [None, MPI.INT], bytearray(), [values, 0, MPI.INT]):
            file.Write_at_all(0, nothing)
            file.Read_at_all(0, nothing)
        for device in (Device(values), Cuda(values)):
            with pytest.raises(pinstripe.ArgumentError, match="device"):
                file.Write_at_all(0, device)
