// One question at a time: a newer one gives up the one before it, and what passes by itself is asked again.
import { showProblem, stopAsking } from "./unlock.js";

export class Question {
  #again;
  #results;
  #hooks;
  #running = null;
  #timer = 0;

  /**
   * @param again asks the page's question.
   * @param results shows its answer, and is dimmed where that takes longer than `patienceMs`.
   * @param hooks `patienceMs`; `waits` is called when results are dimmed, `fails` before it is said what went wrong.
   */
  constructor(again, results, hooks) {
    this.#again = again;
    this.#results = results;
    this.#hooks = { waits: () => {}, fails: () => {}, ...hooks };
  }

  /** Run what asks and shows; its signal says that it was given up. Only the newest one says what went wrong. */
  async ask(show) {
    clearTimeout(this.#timer);
    this.#running?.abort();
    const mine = (this.#running = new AbortController());
    const dim = setTimeout(() => {
      this.#results.classList.add("waiting");
      this.#hooks.waits();
    }, this.#hooks.patienceMs);
    try {
      await show(mine.signal);
      document.getElementById("notice").hidden = true;
      stopAsking();
    } catch (error) {
      if (error.name !== "AbortError" && this.#running === mine) this.fail(error);
    } finally {
      clearTimeout(dim);
      if (this.#running === mine) this.#results.classList.remove("waiting");
    }
  }

  /** Ask after a pause, unless something else is asked before. */
  later(ask, pauseMs) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(ask, pauseMs);
  }

  /** Say what went wrong. */
  fail(error) {
    this.#hooks.fails();
    this.#timer = showProblem(error, this.#again) ?? this.#timer;
  }
}
