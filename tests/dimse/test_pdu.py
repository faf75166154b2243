"""Goal: however TCP cuts the stream, the same fragments and PDUs come out; nonsense is an error."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from perenne.dimse import pdu as wire
from perenne.dimse.pdu import PDV_LAST, PduError, PduReader

MAX_PDU = 4096


@dataclass
class Recorder:
    """Joins the fragments of each PDV."""

    events: list[tuple[int, int, bytes]] = field(default_factory=lambda: list[tuple[int, int, bytes]]())
    partial: bytearray = field(default_factory=bytearray)

    def fragment(self, context_id: int, control: int, data: memoryview, ends: bool) -> None:
        self.partial += data
        if ends:
            self.events.append((context_id, control, bytes(self.partial)))
            self.partial.clear()

    def pdu(self, kind: int, body: bytes) -> None:
        self.events.append((-1, kind, body))


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, int, bytes]]]:
    stream = b""
    events: list[tuple[int, int, bytes]] = []
    for _ in range(draw(st.integers(0, 6))):
        if draw(st.booleans()):
            body = b""
            for _ in range(draw(st.integers(1, 4))):
                item = (draw(st.integers(0, 255)), draw(st.integers(0, 3)), draw(st.binary(max_size=300)))
                events.append(item)
                body += (len(item[2]) + 2).to_bytes(4, "big") + bytes(item[:2]) + item[2]
            kind = wire.P_DATA
        else:
            kind = draw(st.sampled_from([1, 2, 3, 5, 6, 7]))
            body = draw(st.binary(max_size=64))
            events.append((-1, kind, body))
        stream += b"%c\0%b%b" % (kind, len(body).to_bytes(4, "big"), body)
    return stream, events


def feed(reader: PduReader, stream: bytes, cuts: list[int]) -> None:
    """Feed through one buffer that is overwritten each time, as the server does."""
    buffer = bytearray(len(stream))
    start = 0
    for end in [*sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]:
        buffer[: end - start] = stream[start:end]
        reader.feed(memoryview(buffer)[: end - start])
        buffer[:] = b"\xee" * len(buffer)
        start = end


@given(streams(), st.lists(st.integers(0, 5000), max_size=30))
def test_any_fragmentation_gives_the_same_events(
    case: tuple[bytes, list[tuple[int, int, bytes]]], cuts: list[int]
) -> None:
    stream, events = case
    recorder = Recorder()
    reader = PduReader(recorder, MAX_PDU)
    reader.data_allowed = True
    feed(reader, stream, cuts)
    assert recorder.events == events and reader.between_pdus


@given(streams())
def test_byte_by_byte_gives_the_same_events(case: tuple[bytes, list[tuple[int, int, bytes]]]) -> None:
    stream, events = case
    recorder = Recorder()
    reader = PduReader(recorder, MAX_PDU)
    reader.data_allowed = True
    feed(reader, stream, list(range(len(stream))))
    assert recorder.events == events


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=10))
def test_garbage_is_an_error_or_an_unfinished_pdu(stream: bytes, cuts: list[int]) -> None:
    reader = PduReader(Recorder(), MAX_PDU)
    reader.data_allowed = True
    try:
        feed(reader, stream, cuts)
    except PduError:
        return


@given(
    st.binary(max_size=3000),
    st.integers(0, 200).filter(lambda size: size == 0 or size > 6),
    st.integers(0, 1),
)
def test_what_we_send_is_cut_to_the_peers_length_and_comes_back_whole(data: bytes, limit: int, control: int) -> None:
    recorder = Recorder()
    reader = PduReader(recorder, limit or MAX_PDU)
    reader.data_allowed = True
    reader.feed(memoryview(b"".join(wire.data_pdus(5, control, memoryview(data), limit))))
    assert b"".join(event[2] for event in recorder.events) == data
    assert all(event[0] == 5 and event[1] & 1 == control for event in recorder.events)
    assert [bool(event[1] & PDV_LAST) for event in recorder.events] == [False] * (len(recorder.events) - 1) + [True]
    assert reader.between_pdus


def test_a_stopped_reader_ignores_the_rest_of_what_it_was_fed() -> None:
    class Stopper(Recorder):
        def pdu(self, kind: int, body: bytes) -> None:
            super().pdu(kind, body)
            reader.stopped = True

    recorder = Stopper()
    reader = PduReader(recorder, MAX_PDU)
    reader.feed(memoryview(wire.abort_pdu(0, 0) + b"\xff" * 100))
    assert len(recorder.events) == 1
