// What the page does by itself: find and show a key, mark fields with errors, keys in tabs, questions before what cannot be undone.
(() => {
  "use strict";
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

  // --- showing a control, wherever its tab is -------------------------------------------------------------------
  const tabButton = (name) => $$("button[role=tab]").find((b) => b.textContent.trim() === name && b.offsetParent !== null)
    || $$("button[role=tab]").find((b) => b.textContent.trim() === name);

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

  // --- search ----------------------------------------------------------------------------------------------------
  function search(text) {
    const box = $("#search-results");
    if (!box) return;
    box.replaceChildren();
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    box.hidden = !words.length;
    if (!words.length) return;
    const score = (e) => {
      const name = `${e.key} ${e.label}`.toLowerCase(), all = `${name} ${e.help} ${e.section}`.toLowerCase();
      return words.every((w) => all.includes(w)) ? words.filter((w) => name.includes(w)).length + 1 : 0;
    };
    const hits = window.fieldIndex.map((e) => [score(e), e]).filter(([s]) => s).sort((a, b) => b[0] - a[0]).slice(0, 30);
    for (const [, e] of hits) {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.show = e.id;
      for (const [tag, content] of [["b", e.label], ["code", e.key], ["span", e.help]]) {
        const part = document.createElement(tag);
        part.textContent = content;
        button.append(part);
      }
      box.append(button);
    }
    if (!hits.length) box.textContent = "No setting has these words in its name or help text.";
  }

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

  // --- events ---------------------------------------------------------------------------------------------------
  document.addEventListener("click", (event) => {
    const asked = event.target.closest(".asks button, button.asks");
    if (asked && !window.confirm(questions[asked.id] || "Really?")) {
      event.stopImmediatePropagation();
      event.preventDefault();
      return;
    }
    const link = event.target.closest("[data-show]");
    if (link) show(link.dataset.show);
    const tab = event.target.closest("[data-tab]");
    if (tab) openTabs(tab.dataset.tab.split(">"));
  }, true);

  const questions = {
    "stop-now": "Stop at once? What was trained since the last checkpoint is lost; \u201cStop\u201d saves first.",
    "caption-replace-all": "Change these captions in all files? One step back is possible.",
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

  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; mark(); placeLog(); });
  }).observe(document.documentElement, { childList: true, subtree: true });

  window.trainerPage = { show, openTabs };
})();
