// Owns which technician's page is open (the address), and how answers of the hub are asked for and kept up to date.
import { HubError } from '../api';
import { app, asHubError } from '../state.svelte';
import { readPage, writePage, type Page } from './route';

/** How often what is on screen is asked for again. */
export const POLL_MS = 5000;
/** Answers about the whole fleet. */
export const WIDE_POLL_MS = 15_000;
export const SLOW_POLL_MS = 30_000;

class Fleet {
  page = $state.raw<Page>({ page: 'unknown' });
  /** Counts the pages that were gone to: whoever reads the screen is brought to its top. */
  gone = $state(0);

  start(): void {
    this.read();
    addEventListener('popstate', () => this.read());
    // Links of these pages change the page without loading it anew.
    addEventListener('click', (event) => {
      const link = (event.target as Element).closest?.('a');
      const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey && !event.defaultPrevented;
      if (!link || !plain || link.target || link.hasAttribute('download') || link.origin !== location.origin || !/^\/fleet(\/|$)/.test(link.pathname)) return;
      event.preventDefault();
      this.go(link.pathname + link.search);
    });
  }

  go(address: string, replace = false): void {
    if (replace) history.replaceState(null, '', address);
    else history.pushState(null, '', address);
    this.read();
    if (replace) return;
    this.gone += 1;
    scrollTo(0, 0);
  }

  /** What is chosen on a page: each step of it is an address, but not one for Back. */
  choose(page: Page): void {
    this.go(writePage(page), true);
  }

  private read(): void {
    this.page = readPage(location.pathname, new URLSearchParams(location.search));
  }
}
export const fleet = new Fleet();

/** An answer that is kept up to date; what was known stays when the hub is away. */
export class Asked<T> {
  value = $state.raw<T>();
  problem = $state.raw<HubError>();
  at = $state.raw<Date>();
  private key?: string;
  private again?: () => void;

  /** Asks now and again and again, until what it returns is called. Another key forgets what was known. */
  follow(key: string, ask: (signal: AbortSignal) => Promise<T>, every_ms: number): () => void {
    if (key !== this.key) {
      this.value = undefined;
      this.problem = undefined;
    }
    this.key = key;
    const stop = new AbortController();
    let busy = false;
    const once = async () => {
      if (busy || stop.signal.aborted) return;
      busy = true;
      try {
        const value = await ask(stop.signal);
        if (stop.signal.aborted) return;
        this.value = value;
        this.problem = undefined;
        this.at = new Date();
      } catch (error) {
        if (!stop.signal.aborted) this.problem = asHubError(error);
      } finally {
        busy = false;
      }
    };
    // A refusal is asked again by a person only: nothing else changes it.
    const mayAsk = () => !document.hidden && (!this.problem || this.problem.kind === 'offline' || this.problem.status >= 500);
    this.again = () => void once();
    void once();
    const timer = setInterval(() => mayAsk() && void once(), every_ms);
    return () => {
      clearInterval(timer);
      stop.abort();
    };
  }

  retry(): void {
    this.again?.();
  }
}

export const siteOf = (id: string) => app.places?.sites.find((site) => site.id === id);
export const siteName = (id: string) => siteOf(id)?.name ?? id;
export const deviceName = (id: string) => app.places?.devices.find((device) => device.id === id)?.name ?? id;
export const areaName = (id: string) => app.places?.areas.find((area) => area.id === id)?.name ?? id;
