// Owns the start of the page: language, theme, then the frame.
import { mount } from 'svelte';
import './app.css';
import './fonts.css';
import App from './components/App.svelte';
import { chooseLanguage } from './i18n.svelte';
import { app } from './state.svelte';

chooseLanguage(new URLSearchParams(location.search).get('lang'));
document.documentElement.dataset.theme = app.theme;
const target = document.getElementById('app');
if (target) mount(App, { target });
void app.start();
