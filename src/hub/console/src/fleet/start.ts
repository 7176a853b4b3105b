// Owns the start of the technicians' pages: their words, then their frame.
import { mount } from 'svelte';
import { addWords } from '../i18n.svelte';
import en from '../i18n/fleet.en.json';
import vi from '../i18n/fleet.vi.json';
import { app } from '../state.svelte';
import Frame from './Frame.svelte';
import { fleet } from './state.svelte';

export function start(target: HTMLElement): void {
  addWords({ vi, en });
  mount(Frame, { target });
  void app.startBeside();
  fleet.start();
}
