"""A run folder belongs to one process, and a full disk is one kind of error that leaves nothing."""

import errno

import pytest
from safetensors import SafetensorError

from powerjax.distill import export, run_folder


def test_a_folder_that_another_process_trains_in_is_refused(tmp_path):
    folder = tmp_path / "run"
    run_folder.check_free(folder)
    assert not folder.exists()
    with run_folder.locked(folder):
        for again in (run_folder.check_free, lambda path: run_folder.locked(path).__enter__()):
            with pytest.raises(ValueError, match="another process is training in it"):
                again(folder)
    run_folder.check_free(folder)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_an_export_onto_a_full_disk_is_an_oserror_and_leaves_nothing(tmp_path, code):
    """safetensors, which is written in Rust, raises an exception of its own for a full disk."""

    def write(folder):
        folder.mkdir()
        (folder / "model.safetensors").write_text("half")
        text = {errno.ENOSPC: "No space left on device", errno.EFBIG: "File too large"}
        text = text.get(code, "Disk quota exceeded")
        raise SafetensorError(f"Error while serializing: I/O error: {text} (os error {code})")

    with pytest.raises(OSError) as caught:
        export._write(tmp_path / "merged", write)
    assert caught.value.errno == code
    assert not list(tmp_path.iterdir())


def test_other_errors_of_an_export_stay_what_they_are_and_leave_nothing(tmp_path):
    def write(folder):
        folder.mkdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export._write(tmp_path / "merged", write)
    assert not list(tmp_path.iterdir())
