//! Numbers for those who speak: (box) and (box, device), in the order in which they first spoke.
//!
//! Owns the dictionary in memory; it is as large as the registry. Numbers depend on the journal alone, so a
//! rebuilt index has the same ones.

use std::collections::HashMap;

use super::keys::source_key;
use super::values::{SourceValue, encode};
use crate::model::{BoxId, DeviceId};

/// Every known source.
#[derive(Default)]
pub struct Sources {
    list: Vec<(BoxId, Option<DeviceId>)>,
    boxes: HashMap<BoxId, OfBox>,
    devices: HashMap<DeviceId, Vec<u32>>,
}

struct OfBox {
    number: u32,
    devices: HashMap<DeviceId, u32>,
}

impl Sources {
    /// How many there are; the next one gets this number.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    pub fn get(&self, box_id: &BoxId, device: Option<&DeviceId>) -> Option<u32> {
        let of_box = self.boxes.get(box_id)?;
        match device {
            None => Some(of_box.number),
            Some(device) => of_box.devices.get(device).copied(),
        }
    }

    /// The number of a source, a new one if need be; a box gets its own before its devices do.
    pub fn add(&mut self, box_id: &BoxId, device: Option<&DeviceId>) -> u32 {
        if !self.boxes.contains_key(box_id) {
            let number = self.push(box_id, None);
            self.boxes.insert(box_id.clone(), OfBox { number, devices: HashMap::new() });
        }
        if let Some(number) = self.get(box_id, device) {
            return number;
        }
        let device = device.expect("the box itself has a number by now");
        let number = self.push(box_id, Some(device));
        let of_box = self.boxes.get_mut(box_id).expect("added above");
        of_box.devices.insert(device.clone(), number);
        self.devices.entry(device.clone()).or_default().push(number);
        number
    }

    fn push(&mut self, box_id: &BoxId, device: Option<&DeviceId>) -> u32 {
        self.list.push((box_id.clone(), device.cloned()));
        self.list.len() as u32 - 1
    }

    /// The numbers that a question about a device or a box means, smallest first.
    pub fn asked(&self, box_id: Option<&BoxId>, device: Option<&DeviceId>) -> Vec<u32> {
        let mut numbers: Vec<u32> = match (box_id, device) {
            (Some(box_id), Some(device)) => self.get(box_id, Some(device)).into_iter().collect(),
            (None, Some(device)) => self.devices.get(device).cloned().unwrap_or_default(),
            (Some(box_id), None) => {
                let of_box = self.boxes.get(box_id);
                of_box.into_iter().flat_map(|b| b.devices.values().copied().chain([b.number])).collect()
            }
            (None, None) => Vec::new(),
        };
        numbers.sort_unstable();
        numbers
    }

    /// The numbers of some devices, by whatever box, smallest first.
    pub fn of_devices(&self, devices: &[DeviceId]) -> Vec<u32> {
        let mut numbers: Vec<u32> =
            devices.iter().filter_map(|device| self.devices.get(device)).flatten().copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// Boxes that ever spoke about the device.
    pub fn boxes_of(&self, device: &DeviceId) -> Vec<BoxId> {
        let numbers = self.devices.get(device).map_or(&[][..], Vec::as_slice);
        numbers.iter().map(|&n| self.list[n as usize].0.clone()).collect()
    }

    pub fn boxes(&self) -> Vec<BoxId> {
        let mut boxes: Vec<BoxId> = self.boxes.keys().cloned().collect();
        boxes.sort();
        boxes
    }

    /// Whose number this is.
    pub fn who(&self, number: u32) -> Option<(&BoxId, Option<&DeviceId>)> {
        self.list.get(number as usize).map(|(box_id, device)| (box_id, device.as_ref()))
    }

    /// Numbers of the devices of a box, smallest first.
    pub fn devices_of(&self, box_id: &BoxId) -> Vec<u32> {
        let of_box = self.boxes.get(box_id).into_iter().flat_map(|b| b.devices.values().copied());
        let mut numbers: Vec<u32> = of_box.collect();
        numbers.sort_unstable();
        numbers
    }

    pub fn box_of(&self, number: u32) -> &BoxId {
        &self.list[number as usize].0
    }

    /// Key and value of every source from number `first` on.
    pub fn entries(&self, first: usize) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
        self.list[first..].iter().zip(first as u32..).map(|((box_id, device), number)| {
            (source_key(number), encode(&SourceValue { box_id: box_id.clone(), device: device.clone() }))
        })
    }
}
