// What the page does by itself: find and show a key, mark fields with errors, keys in tabs, questions before what cannot be undone.
(() => {
  "use strict";
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

  // --- showing a control, wherever its tab is -------------------------------------------------------------------
  const tabButton = (name) => $$("button[role=tab]").find((b) => b.textContent.trim() === name && b.offsetParent !== null)
    || $$("button[role=tab], .overflow-dropdown button").find((b) => b.textContent.trim() === name);

  async function openTabs(names) {
    for (const name of names) {
      for (let tries = 0; tries < 40; tries++) {
        const button = tabButton(name);
        if (button) { if (button.getAttribute("aria-selected") !== "true") button.click(); break; }
        await new Promise((done) => setTimeout(done, 50));
      }
    }
  }

  async function show(id) {
    const entry = window.fieldIndex.find((e) => e.id === id);
    if (!entry) return;
    await openTabs(entry.tabs);
    for (let tries = 0; tries < 40; tries++) {
      const block = document.getElementById(id);
      if (block && block.offsetParent !== null) {
        block.scrollIntoView({ block: "center" });
        const input = $("input, textarea", block);
        if (input) input.focus({ preventScroll: true });
        block.classList.add("found");
        setTimeout(() => block.classList.remove("found"), 1600);
        return;
      }
      await new Promise((done) => setTimeout(done, 50));
    }
  }

  // A button that asks for something on another page: that opens once it is answered, unless somebody went elsewhere.
  let journey = 0;
  async function follow(name, mine) {
    do await new Promise((done) => setTimeout(done, 60)); while (window.trainerAnswers.waiting());
    if (mine === journey) openTabs([name]);
  }

  async function press(id) {
    for (let tries = 0; id && tries < 40; tries++) {
      const button = document.getElementById(id);
      if (button && button.offsetParent !== null) { button.click(); return; }
      await new Promise((done) => setTimeout(done, 50));
    }
  }

  // --- light and dark, phones -------------------------------------------------------------------------------------
  function otherTheme() {
    localStorage.setItem("theme", document.body.classList.contains("dark") ? "light" : "dark");
    look();
  }
  function look() {
    const root = document.documentElement, chosen = localStorage.getItem("theme");
    if (chosen && document.body.classList.contains("dark") !== (chosen === "dark")) document.body.classList.toggle("dark");
    root.style.colorScheme = document.body.classList.contains("dark") ? "dark" : "light";
    root.classList.toggle("phone", window.innerWidth <= 640);
    const here = $("#pages > .tab-wrapper [role=tab][aria-selected=true]");
    if (here) for (const one of $$("#pages-nav button")) {
      const is = one.textContent.trim() === here.textContent.trim();
      if ((one.getAttribute("aria-current") === "page") !== is) one.setAttribute("aria-current", is ? "page" : "false");
    }
  }
  window.addEventListener("resize", look);

  // --- a run or the queue has ended -----------------------------------------------------------------------------------
  const LIVE = ["starting", "training", "paused"];
  const TITLE = "Immiscible Trainer";
  let before = null;
  function say(text) {
    document.title = text;
    if (!window.Notification || Notification.permission !== "granted") return;
    try { new Notification(TITLE, { body: text }); } catch { /* some phones have none for pages */ }
  }
  function tellEnds() {
    const told = $("#states [data-states]");
    if (!told || told.dataset.states === tellEnds.seen) return;
    tellEnds.seen = told.dataset.states;
    const now = JSON.parse(told.dataset.states), was = before || now;
    before = now;
    for (const [name, state] of Object.entries(now.runs)) {
      if (!LIVE.includes(was.runs[name]) || LIVE.includes(state)) continue;
      say(`${name} ${{ ended: "was interrupted", failed: "failed" }[state] || `is ${state}`}.`);
    }
    const over = (queue) => queue.done + queue.failed;
    if (was.queue.left && !now.queue.left && over(now.queue) > over(was.queue)) {
      say(`The queue has ended: ${now.queue.done} done, ${now.queue.failed} failed or stopped.`);
    }
  }
  window.addEventListener("focus", () => { document.title = TITLE; });
  document.addEventListener("click", (event) => {
    const copied = event.target.closest("[data-copy]");
    if (copied) {
      const asked = () => window.prompt("Its path:", copied.dataset.copy);
      // Browsers have no clipboard for pages that come unencrypted from another machine.
      if (navigator.clipboard) navigator.clipboard.writeText(copied.dataset.copy).then(() => { copied.textContent = "Copied"; }, asked);
      else asked();
    }
    const starts = event.target.closest("#start, #enqueue, #resume, #variants-queue, #queue-start");
    if (starts && window.Notification && Notification.permission === "default") Notification.requestPermission();
  });

  // --- search ----------------------------------------------------------------------------------------------------
  function search(text) {
    const box = $("#search-results");
    if (!box) return;
    box.replaceChildren();
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    box.hidden = !words.length;
    if (!words.length) return;
    const score = (e) => {
      const name = `${e.key} ${e.label} ${e.elsewhere}`.toLowerCase(), all = `${name} ${e.help} ${e.section}`.toLowerCase();
      return words.every((w) => all.includes(w)) ? words.filter((w) => name.includes(w)).length + 1 : 0;
    };
    const hits = window.fieldIndex.map((e) => [score(e), e]).filter(([s]) => s).sort((a, b) => b[0] - a[0]).slice(0, 30);
    for (const [, e] of hits) {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.show = e.id;
      for (const [tag, content] of [["b", e.tabs.length > 1 || e.section !== "Run" ? `${e.section}: ${e.label}` : e.label], ["code", e.key], ["span", e.help]]) {
        const part = document.createElement(tag);
        part.textContent = content;
        button.append(part);
      }
      box.append(button);
    }
    if (!hits.length) box.textContent = "No setting has these words in its name or help text.";
  }

  // --- more about a field -------------------------------------------------------------------------------------------
  function explain() {
    for (const block of $$(".field[id^='f-']:not([data-about])")) {
      const entry = window.fieldIndex.find((e) => e.id === block.id);
      block.dataset.about = "yes";
      if (!entry) continue;
      const link = document.createElement("a");
      Object.assign(link, { className: "about", target: "_blank", rel: "noopener", textContent: "more" });
      link.href = `settings#${entry.about}`;
      link.setAttribute("aria-label", `More about ${entry.label}`);
      block.append(link);
    }
  }

  // --- the first start ------------------------------------------------------------------------------------------------
  const STEPS = [
    ["Setup", "Choose a base model and a folder of images. What is not set keeps a good default; every setting is found by its name."],
    ["Dataset", "Look at the images as they will be trained: crop, size, caption. Bring new ones in here, and change captions."],
    ["Noise", "See what Noise Oversampling and the other stages do to your own images."],
    ["Train", "Start, follow, pause. The training goes on when this page is closed. Variants of a config are queued here too."],
    ["Runs", "Compare runs: settings, curves, samples, and whether a difference is more than chance."],
    ["Try", "Draw prompts with any result at several strengths, from the same noise."],
  ];
  let step = 0;
  function tour() {
    const box = $("#tour");
    if (!box || (box.dataset.step === String(step) && box.hidden === Boolean(localStorage.getItem("toured")))) return;
    box.hidden = Boolean(localStorage.getItem("toured"));
    box.dataset.step = step;
    $("p", box).textContent = `${step + 1} of ${STEPS.length} \u2013 ${STEPS[step][0]}: ${STEPS[step][1]}`;
    $("[data-next]", box).textContent = step + 1 < STEPS.length ? "Next" : "Done";
  }
  document.addEventListener("click", (event) => {
    const next = event.target.closest("[data-next]");
    if (!next && !event.target.closest("[data-skip]")) return;
    if (next && step + 1 < STEPS.length) step++;
    else localStorage.setItem("toured", "yes");
    tour();
    openTabs([localStorage.getItem("toured") ? "Setup" : STEPS[step][0]]);
  });

  // --- errors beside their fields ---------------------------------------------------------------------------------
  function mark() {
    const wanted = new Map();
    for (const line of $$("#problems [data-show]")) {
      const said = line.dataset.said;
      if (said && !wanted.has(line.dataset.show)) wanted.set(line.dataset.show, said);
    }
    for (const block of $$(".field")) {
      const said = wanted.get(block.id) || "";
      if ((block.dataset.problem || "") === said && (!said || $(".field-problem", block))) continue;
      $$(".field-problem", block).forEach((e) => e.remove());
      block.dataset.problem = said;
      block.classList.toggle("bad", Boolean(said));
      const input = $("input, textarea", block);
      if (input) input.setAttribute("aria-invalid", said ? "true" : "false");
      if (said) {
        const text = document.createElement("div");
        text.className = "field-problem";
        text.textContent = said;
        block.append(text);
      }
    }
  }

  // --- pictures by keyboard: arrows go on, x ticks -------------------------------------------------------------------
  function walk(event) {
    const cell = event.target.closest && event.target.closest(".gallery .cell");
    if (!cell) return;
    const cells = $$(".gallery .cell"), at = cells.indexOf(cell);
    const row = cells.filter((c) => c.getBoundingClientRect().top === cells[0].getBoundingClientRect().top).length || 1;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row }[event.key];
    if (step && cells[at + step]) { cells[at + step].focus(); cells[at + step].click(); event.preventDefault(); }
    if (event.key === "x") $("input[data-box]", cell.parentElement).click();
  }

  // --- keys -----------------------------------------------------------------------------------------------------
  function arrows(event) {
    const tab = event.target.closest && event.target.closest("button[role=tab]");
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!tab || !step) return;
    const row = $$("button[role=tab]", tab.parentElement).filter((b) => b.offsetParent !== null);
    const next = row[(row.indexOf(tab) + step + row.length) % row.length];
    next.focus();
    next.click();
    event.preventDefault();
  }

  // --- unsaved changes ------------------------------------------------------------------------------------------
  let typed = false;  // until the field is left and the server has told what that changed
  const loses = () => typed || Boolean($("#file-state [data-lose]"));
  let answer = { choice: null, time: 0, leaves: true };
  // choice: of a list, which tells each one twice and is asked about once; every other click is a question of its own.
  function mayLeave(choice = null) {
    if (!loses()) return true;
    if (choice === null || choice !== answer.choice || Date.now() - answer.time > 1000) {
      const leaves = window.confirm("There are unsaved changes. Leave them? They are kept and offered when you come back.");
      answer = { choice, time: Date.now(), leaves };
    }
    return answer.leaves;
  }
  window.addEventListener("beforeunload", (event) => { if (loses()) event.preventDefault(); });
  document.addEventListener("input", (event) => { if (event.target.closest(".field[id^='f-']")) typed = true; }, true);
  document.addEventListener("focusout", () => setTimeout(() => { typed = false; }, 2000));

  // --- events ---------------------------------------------------------------------------------------------------
  document.addEventListener("click", (event) => {
    const asked = event.target.closest(".asks button, button.asks");
    if (asked && !window.confirm(questions[asked.id] || "Really?")) {
      event.stopImmediatePropagation();
      event.preventDefault();
      return;
    }
    if (event.target.closest("#new, #import-use, [title='New from this run']") && !mayLeave()) {
      event.stopImmediatePropagation();
      event.preventDefault();
      return;
    }
    const cell = event.target.closest(".gallery .cell");
    if (cell) for (const one of $$(".gallery .cell")) one.classList.toggle("selected", one === cell);
    const link = event.target.closest("[data-show]");
    if (link) show(link.dataset.show);
    const tab = event.target.closest("[data-tab]");
    if (tab || event.target.closest("[role=tab]")) journey++;
    if (tab && tab.dataset.pick) follow(tab.dataset.tab, journey);
    else if (tab) openTabs(tab.dataset.tab.split(">")).then(() => press(tab.dataset.press));
    if (event.target.closest("[data-menu]")) $(".bar").classList.toggle("open");
    if (event.target.closest("[data-theme]")) otherTheme();
  }, true);

  const questions = {
    "stop-now": "Stop at once? What was trained since the last checkpoint is lost; \u201cStop\u201d saves first.",
    "forget-draft": "Forget the changes that were never saved? They cannot be brought back.",
    "empty-trash": "Delete everything in the trash for good?",
    "drop-broken": "Move these files into the folder \u201cremoved\u201d beside the images?",
    "drop-file": "Move this image and its caption into the folder \u201cremoved\u201d beside it?",
  };

  document.addEventListener("change", (event) => {
    const chosen = event.target.closest("#oversampling input");
    if (chosen && chosen.value === "Custom") show("f-noise-oversampling-k");
  });
  document.addEventListener("input", (event) => {
    if (event.target.closest("#search")) search(event.target.value);
  });
  document.addEventListener("keydown", (event) => {
    arrows(event);
    walk(event);
    if (event.key === "s" && (event.ctrlKey || event.metaKey) && !event.altKey) {
      event.preventDefault();
      // What is being typed counts too: leaving the field hands it over.
      const typed = document.activeElement;
      if (typed) typed.blur();
      $("#save").click();
    }
    if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) {
      const input = $("#search input, #search textarea");
      if (input && input.offsetParent !== null) { input.focus(); event.preventDefault(); }
    }
  });

  // --- the log shows its end, unless somebody has scrolled up to read ------------------------------------------------
  let atEnd = true;
  document.addEventListener("scroll", (event) => {
    const log = event.target.closest && event.target.closest("#log pre");
    if (log && log.dataset.placed) atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 30;
  }, true);
  function placeLog() {
    const log = $("#log pre");
    if (!log || log.dataset.placed || !log.clientHeight) return;
    if (atEnd) log.scrollTop = log.scrollHeight;
    log.dataset.placed = "yes";
  }

  // --- what changes in the page --------------------------------------------------------------------------------------
  // Gradio changes a view in place: an element may stand for something else now, and only its text or an attribute tells.
  const TELLING = ["aria-selected", "data-states", "data-said", "data-show", "data-placed", "data-box", "data-shown", "checked"];
  const TICK = ["data-box", "data-shown", "checked"];
  let waiting = false;
  new MutationObserver((records) => {
    // A box that was clicked would keep its tick, whatever it stands for by now.
    for (const { attributeName, target } of records) {
      if (TICK.includes(attributeName) && target.matches("input[data-box]")) target.checked = target.defaultChecked;
    }
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; mark(); placeLog(); look(); tellEnds(); explain(); tour(); });
  }).observe(document.documentElement, { childList: true, subtree: true, characterData: true, attributeFilter: TELLING });

  window.trainerPage = { show, openTabs, mayLeave };
})();
