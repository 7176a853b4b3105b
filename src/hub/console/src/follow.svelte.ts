// Owns following: from a clip or a point, a direction and a speed, the cameras to look at next and when.
import { fetchFollow, HubError, type FollowQuestion, type Look, type Point } from './api';
import { app } from './state.svelte';

export const PACES = ['walking', 'bicycle', 'motorbike'] as const;
export type Pace = (typeof PACES)[number];
export const MINUTES = [5, 10, 20, 30];

/** Where somebody was last seen. */
export interface From {
  clip?: string;
  point?: Point;
  at: number;
}

class Follow {
  pace = $state<Pace>('motorbike');
  /** Where they went, degrees from north; `undefined`: nobody saw. */
  heading = $state<number>();
  minutes = $state(10);
  from = $state.raw<From>();
  looks = $state.raw<Look[]>();
  problem = $state.raw<HubError>();
  asking = $state(false);
  private pending?: AbortController;

  async ask(from: From): Promise<void> {
    this.from = from;
    this.pending?.abort();
    const pending = (this.pending = new AbortController());
    this.asking = true;
    this.problem = undefined;
    // The moment that is on screen is nearer to the truth than the clip's beginning.
    const question: FollowQuestion = from.point
      ? { point: from.point, time: new Date(from.at).toISOString(), speed: this.pace, minutes: this.minutes }
      : { clip: from.clip, speed: this.pace, minutes: this.minutes };
    if (this.heading !== undefined) question.heading_deg = this.heading;
    try {
      this.looks = (await fetchFollow(question, app.purpose, pending.signal)).cameras;
    } catch (error) {
      if (pending.signal.aborted) return;
      this.looks = undefined;
      this.problem = error instanceof HubError ? error : new HubError('problem', 0, String(error), '');
    } finally {
      if (this.pending === pending) this.asking = false;
    }
  }

  close(): void {
    this.pending?.abort();
    this.from = undefined;
    this.looks = undefined;
    this.problem = undefined;
    this.asking = false;
  }
}

export const follow = new Follow();
