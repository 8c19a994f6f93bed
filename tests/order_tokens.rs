//! Token windows and packing: every token once, the same after any resume.

use proptest::prelude::*;
use strait::order::{Cursor, Fingerprint, Order, Packer, PackerState, Piece, Progress, Shuffle, TokenWindows};

fn lengths() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(prop_oneof![4 => 0u64..30, 1 => 30u64..300], 1..60)
}

/// `(document, token)` for every token, document after document in the given order.
fn stream(lengths: &[u64], documents: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
    documents.flat_map(|d| (0..lengths[d as usize]).map(move |token| (d, token))).collect()
}

fn tokens_of_pieces(pieces: &[Piece]) -> Vec<(u64, u64)> {
    pieces.iter().flat_map(|p| (p.start..p.start + p.tokens).map(|token| (p.document, token))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn windows_cover_the_stream_and_mark_its_documents(lengths in lengths(), window in 1u64..70, overlap in 0u64..3) {
        let stride = window.saturating_sub(overlap).max(1);
        let stream = stream(&lengths, 0..lengths.len() as u64);
        let windows = TokenWindows::new(stream.len() as u64, window, stride).unwrap();
        let mut first = vec![0];
        lengths.iter().for_each(|len| first.push(first[first.len() - 1] + len));
        let mut boundaries = Vec::new();
        let mut end = 0;
        for number in 0..windows.len() {
            let range = windows.range(number);
            prop_assert!(range.start <= end.max(stride) && (number == 0 || range.start == end - (window - stride)));
            end = range.end;
            windows.boundaries(number, lengths.len() as u64, |d| first[d as usize], &mut boundaries);
            let tokens = &stream[range.start as usize..range.end as usize];
            let mut expected: Vec<u32> = (1..window as usize).filter(|&i| tokens[i].0 != tokens[i - 1].0).map(|i| i as u32).collect();
            expected.insert(0, 0);
            expected.push(window as u32);
            prop_assert_eq!(&boundaries, &expected);
        }
        prop_assert_eq!(end + windows.tail_tokens(), stream.len() as u64);
        prop_assert!(windows.tail_tokens() < window);
    }

    #[test]
    fn packing_cuts_the_shuffled_stream(
        lengths in lengths(), window in 1u64..70, seed: u64, epoch: u64, stop: u64, jumps: Vec<u64>,
    ) {
        let tokens_of = |d: u64| lengths[d as usize];
        let order = Order::new(Shuffle::Full, lengths.len() as u64, seed).unwrap();
        let stream = stream(&lengths, (0..order.len()).map(|position| order.sample_at(epoch, position)));
        let packer = Packer::new(order, window, stream.len() as u64).unwrap();
        let (mut pieces, mut ends) = (Vec::new(), Vec::new());
        let start = Progress { epoch, consumed: 0 };
        let mut packing = packer.resume(start, PackerState::default());
        let stop = stop % (packer.windows() + 1);
        let saved = packer.resume(start, PackerState::default()).state_at(stop, tokens_of).unwrap();
        let saved = packer.cursor(Fingerprint::new("tokens", []), Progress { epoch, consumed: stop }, saved).to_json();
        for number in 0..packer.windows() {
            if number == stop {
                // As a new process would, from nothing but the cursor.
                let saved = Cursor::parse(saved.as_bytes()).unwrap();
                packing = packer.resume(saved.progress, saved.packer.unwrap());
            }
            packing.window(number, tokens_of, &mut pieces, &mut ends).unwrap();
            let from = (number * window) as usize;
            prop_assert_eq!(tokens_of_pieces(&pieces), &stream[from..from + window as usize]);
            let mut expected = vec![0];
            pieces.iter().for_each(|piece| expected.push(expected[expected.len() - 1] + piece.tokens as u32));
            prop_assert_eq!(&ends, &expected);
            prop_assert!(pieces.iter().all(|piece| piece.tokens > 0));
        }
        prop_assert_eq!(packer.windows() * window + packer.tail_tokens(), stream.len() as u64);
        // Ranks skip each other's windows, and wrapped places go back.
        for number in jumps.into_iter().filter(|_| packer.windows() > 0).map(|jump| jump % packer.windows()) {
            packing.window(number, tokens_of, &mut pieces, &mut ends).unwrap();
            let from = (number * window) as usize;
            prop_assert_eq!(tokens_of_pieces(&pieces), &stream[from..from + window as usize]);
        }
    }
}

#[test]
fn nonsense_is_an_error() {
    for (window, stride) in [(0, 0), (8, 0), (8, 9), (1 << 33, 1)] {
        assert!(TokenWindows::new(100, window, stride).is_err(), "{window} {stride}");
    }
    assert_eq!(TokenWindows::new(7, 8, 8).unwrap().len(), 0);
    assert_eq!(TokenWindows::new(7, 8, 8).unwrap().tail_tokens(), 7);
    let order = || Order::new(Shuffle::Full, 3, 1).unwrap();
    assert!(Packer::new(order(), 0, 100).is_err());
    let mut packing = Packer::new(order(), 8, 100).unwrap().resume(Progress::default(), PackerState::default());
    let error = packing.window(5, |_| 4, &mut Vec::new(), &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("tokens early"), "{error}");
    // A cursor of another dataset, or one that was edited.
    let beyond = PackerState { document: u64::MAX, token: u64::MAX };
    let mut packing = Packer::new(order(), 8, 100).unwrap().resume(Progress::default(), beyond);
    assert!(packing.window(0, |_| 4, &mut Vec::new(), &mut Vec::new()).is_err());
}

/// A promise to every saved cursor: a change here is a new order version. The numbers come from a second implementation,
/// in Python.
#[test]
fn golden_packing_of_version_1() {
    let lengths = [7, 0, 3, 12, 1, 4];
    let packer = Packer::new(Order::new(Shuffle::Full, 6, 3).unwrap(), 5, 27).unwrap();
    let mut packing = packer.resume(Progress { epoch: 1, consumed: 0 }, PackerState::default());
    let mut pieces = Vec::new();
    let windows: [Vec<(u64, u64, u64)>; 5] = std::array::from_fn(|window| {
        packing.window(window as u64, |document| lengths[document as usize], &mut pieces, &mut Vec::new()).unwrap();
        pieces.iter().map(|piece: &Piece| (piece.document, piece.start, piece.tokens)).collect()
    });
    let golden = [
        vec![(2, 0, 3), (5, 0, 2)],
        vec![(5, 2, 2), (4, 0, 1), (0, 0, 2)],
        vec![(0, 2, 5)],
        vec![(3, 0, 5)],
        vec![(3, 5, 5)],
    ];
    assert_eq!(
        (windows, packing.state_at(5, |d| lengths[d as usize]).unwrap()),
        (golden, PackerState { document: 5, token: 10 })
    );
}

/// Going on from a cursor looks at the documents of the next window and at no others, however far the epoch has come.
#[test]
fn going_on_takes_no_walk() {
    let order = Order::new(Shuffle::Full, 1 << 40, 1).unwrap();
    let packer = Packer::new(order, 100, 7 << 40).unwrap();
    for consumed in [0, 1 << 36, packer.windows() - 1] {
        let state = PackerState { document: consumed * 100 / 7, token: consumed * 100 % 7 };
        let mut packing = packer.resume(Progress { epoch: 3, consumed }, state);
        let looks = std::cell::Cell::new(0);
        let tokens_of = |_| {
            looks.set(looks.get() + 1);
            7
        };
        let mut pieces = Vec::new();
        packing.window(consumed, tokens_of, &mut pieces, &mut Vec::new()).unwrap();
        assert_eq!(pieces.iter().map(|piece| piece.tokens).sum::<u64>(), 100);
        assert_eq!(looks.get(), pieces.len(), "at window {consumed}");
    }
}
