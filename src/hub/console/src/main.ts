// Owns the start of the page: language, theme, then the frame: the officers', or the technicians' below /fleet.
import { mount } from 'svelte';
import './app.css';
import './fonts.css';
import App from './components/App.svelte';
import { chooseLanguage } from './i18n.svelte';
import { app } from './state.svelte';

chooseLanguage(new URLSearchParams(location.search).get('lang'));
document.documentElement.dataset.theme = app.theme;
const target = document.getElementById('app');
if (target && /^\/fleet(\/|$)/.test(location.pathname)) {
  // Loaded when it is asked for: the officers' first load does not carry it.
  void import('./fleet/start').then(({ start }) => start(target));
} else if (target) {
  mount(App, { target });
  void app.start();
}
