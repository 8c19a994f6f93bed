//! A fixed set of places, handed out by number: what is in flight is found by its token, and nothing is allocated.

pub(super) struct Places<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Places<T> {
    pub(super) fn new(count: usize) -> Places<T> {
        Places { places: (0..count).map(|_| None).collect(), free: (0..count as u32).rev().collect() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// `None` if every place is in use.
    pub(super) fn put(&mut self, value: T) -> Option<u32> {
        let place = self.free.pop()?;
        self.places[place as usize] = Some(value);
        Some(place)
    }

    pub(super) fn get(&self, place: u32) -> &T {
        self.places[place as usize].as_ref().expect("a place in use")
    }

    pub(super) fn get_mut(&mut self, place: u32) -> &mut T {
        self.places[place as usize].as_mut().expect("a place in use")
    }

    pub(super) fn take(&mut self, place: u32) -> T {
        let value = self.places[place as usize].take().expect("a place in use");
        self.free.push(place);
        value
    }

    pub(super) fn used(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().flatten()
    }
}
