//! Streams and events.

use crate::{Handle, NONE, Program, STRAY, call};

#[test]
fn streams() {
    let program = Program::new();
    let Program { device, host, stream, .. } = program;
    let copy = |stream| call!(cuMemcpyHtoDAsync_v2(u64 = device, Handle = host, usize = 16, Handle = stream));
    program.reports("a stream of another context", || assert_eq!(program.elsewhere(|| copy(stream)), 400));
    program.reports("a stream that is none or was destroyed", || assert_eq!(copy(STRAY), 400));
    let mut other = NONE;
    program.reports("a stream that waits for the legacy one", || {
        assert_eq!(call!(cuStreamCreate(*mut Handle = &mut other, u32 = 0)), 0);
    });
    assert_eq!(call!(cuStreamDestroy_v2(Handle = other)), 0);
    program.reports("a stream destroyed twice", || assert_eq!(call!(cuStreamDestroy_v2(Handle = other)), 400));
}

#[test]
fn streams_without_order() {
    let program = Program::new();
    let mut other = NONE;
    assert_eq!(call!(cuStreamCreate(*mut Handle = &mut other, u32 = 1)), 0);
    let event = program.event();
    let on_other = || {
        let target = program.host.wrapping_byte_add(4096);
        call!(cuMemcpyDtoHAsync_v2(Handle = target, u64 = program.device, usize = 16, Handle = other));
        program.fake.heal();
        call!(cuStreamSynchronize(Handle = other));
    };
    program.fake.stall();
    program.copy(16);
    program.reports("in no order", || {
        on_other();
        program.wait();
    });
    program.fake.stall();
    program.copy(16);
    call!(cuEventRecord(Handle = event, Handle = program.stream));
    call!(cuStreamWaitEvent(Handle = other, Handle = event, u32 = 0));
    on_other();
    program.wait();
    call!(cuEventDestroy_v2(Handle = event));
    call!(cuStreamDestroy_v2(Handle = other));
}

#[test]
fn events() {
    let program = Program::new();
    let stream = program.stream;
    let record = |event| call!(cuEventRecord(Handle = event, Handle = stream));
    let query = |event| call!(cuEventQuery(Handle = event));
    let destroy = |event| call!(cuEventDestroy_v2(Handle = event));
    let mut slow = NONE;
    program.reports("an event that takes the time", || {
        assert_eq!(call!(cuEventCreate(*mut Handle = &mut slow, u32 = 0)), 0);
    });
    program.reports("a record of an event of another context", || {
        assert_eq!(program.elsewhere(|| call!(cuEventRecord(Handle = slow, Handle = NONE))), 400);
    });
    assert_eq!((record(slow), destroy(slow)), (0, 0));
    program.wait();
    program.reports("an event destroyed twice", || assert_eq!(destroy(slow), 400));
    program.reports("a record of an event that was destroyed", || assert_eq!(record(slow), 400));
    program.reports("a query of an event that was destroyed", || assert_eq!(query(slow), 400));
    program.reports("a wait for an event that was destroyed", || {
        assert_eq!(call!(cuStreamWaitEvent(Handle = stream, Handle = slow, u32 = 0)), 400);
    });
    // An event is done before it is recorded: one whose record failed tells nothing, whatever became of the call.
    let event = program.event();
    for works in [false, true] {
        program.fake.fail("cuEventRecord", 1, 999, works);
        assert_eq!(record(event), 999);
        program.reports("a query of an event whose record failed", || assert_eq!(query(event), 400));
        assert_eq!(record(event), 0);
        program.wait();
        assert_eq!(query(event), 0);
    }
    destroy(event);
}

#[test]
fn captures() {
    let program = Program::new();
    let [event, before] = [program.event(), program.event()];
    let begin = || assert_eq!(call!(cuStreamBeginCapture_v2(Handle = program.stream, i32 = 0)), 0);
    let end = || call!(cuStreamEndCapture(Handle = program.stream, *mut Handle = &mut { NONE }));
    call!(cuEventRecord(Handle = before, Handle = program.stream));
    begin();
    program.reports("cuStreamSynchronize while a stream is captured", || {
        assert_eq!(call!(cuStreamSynchronize(Handle = program.stream)), 900);
    });
    assert_eq!(end(), 901, "spoilt");
    begin();
    call!(cuThreadExchangeStreamCaptureMode(*mut i32 = &mut 2));
    call!(cuEventRecord(Handle = event, Handle = program.stream));
    program.reports("a query of an event that was captured", || assert_eq!(call!(cuEventQuery(Handle = event)), 907));
    end();
    begin();
    program.reports("made to wait for what is not captured", || {
        assert_eq!(call!(cuStreamWaitEvent(Handle = program.stream, Handle = before, u32 = 0)), 905);
    });
    end();
    begin();
    let mut other = NONE;
    call!(cuStreamCreate(*mut Handle = &mut other, u32 = 1));
    call!(cuEventRecord(Handle = event, Handle = program.stream));
    program.reports("drawn into the capture of another", || {
        call!(cuStreamWaitEvent(Handle = other, Handle = event, u32 = 0));
    });
    end();
    call!(cuThreadExchangeStreamCaptureMode(*mut i32 = &mut 0));
    for event in [event, before] {
        call!(cuEventDestroy_v2(Handle = event));
    }
    call!(cuStreamDestroy_v2(Handle = other));
}
