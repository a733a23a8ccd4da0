// Late answers: whatever was clicked last wins, on every page.
//
// Each request gets a number when it is sent, and each thing that a person does to a control gets one too. What an answer
// says about a property of a component counts only where nothing newer has been said about it. So a slow answer never undoes
// a later click, whichever handler it came from. Requests that fill the whole form make it wait for their answer: typing
// into a form that is about to be another one could only be lost.
(() => {
  "use strict";
  const HELD = ".holds"; // parts of the page that wait for the form
  const FORM = "f-run-name"; // an answer that fills this control fills the form
  let clock = 0;
  const newest = new Map(); // "component.property" -> number of the request or click that said it last
  const requests = new Map(); // event id -> request
  const sending = new Set();
  const ended = new Map(); // dependency -> number of the request of it that ended last
  const waiting = new Set(); // requests that nothing was answered to
  const filling = new Set(); // requests whose first answer fills the form
  let dependencies = null, ids = null;

  // Gradio keeps a light of progress for each input and output of whatever was asked so far, and at each message from the
  // server looks up all of them in its tree of components: seconds, once the whole form was asked about. Nobody sees these
  // lights here (show_progress="hidden"), so no output gets one, and the inputs count as one thing that is not in the tree.
  for (const dependency of window.gradio_config.dependencies) {
    dependency.show_progress_on = [];
    dependency.inputs[Symbol.isConcatSpreadable] = false;
  }

  function learn() {
    if (dependencies) return;
    dependencies = new Map(window.gradio_config.dependencies.map((d) => [d.id, d]));
    ids = new Map(window.gradio_config.components.map((c) => [c.props.elem_id || `component-${c.id}`, c.id]));
  }

  // --- what a person does ---------------------------------------------------------------------------------------
  function touched(event) {
    learn();
    for (let at = event.target; at instanceof Element; at = at.parentElement) {
      if (at.id && ids.has(at.id)) { newest.set(`${ids.get(at.id)}.value`, ++clock); return; }
    }
  }
  for (const kind of ["input", "change"]) document.addEventListener(kind, touched, true);
  document.addEventListener("mousedown", (event) => { if (event.target.closest("[role=option]")) touched(event); }, true);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.closest("[role=listbox], [role=combobox]")) touched(event);
  }, true);

  // --- requests -------------------------------------------------------------------------------------------------
  function sent(body) {
    learn();
    const about = dependencies.get(body.fn_index) || { outputs: [], targets: [] };
    // What follows a request by itself is as old as that.
    const after = about.trigger_after;
    const number = after !== null && after !== undefined && ended.has(after) ? ended.get(after) : ++clock;
    const byHand = about.targets.some(([, name]) => name !== "tick" && name !== "load");
    // A change may be an answer's doing: it says nothing new about the control, and a person's is seen by touched().
    if (byHand && about.targets.some(([id, name]) => id === body.trigger_id && name !== "change")) said(`${body.trigger_id}.value`, number);
    const request = { number, handler: about.id, outputs: about.outputs, whole: null, texts: [], byHand };
    if (about.outputs.includes(ids.get(FORM))) { filling.add(request); hold(); }
    return request;
  }

  function answered(request) {
    waiting.delete(request);
    if (filling.delete(request)) hold();
  }

  let held = false, focused = null;
  function hold() {
    if (held === filling.size > 0) return;
    held = filling.size > 0;
    if (held) focused = document.activeElement;
    for (const part of document.querySelectorAll(HELD)) part.inert = held;
    document.documentElement.classList.toggle("waiting", held);
    if (!held && focused && document.activeElement === document.body) focused.focus({ preventScroll: true });
  }
  // Parts that are only now shown wait too.
  new MutationObserver(() => {
    if (held) for (const part of document.querySelectorAll(`${HELD}:not([inert])`)) part.inert = true;
  }).observe(document.documentElement, { childList: true, subtree: true });

  // --- answers --------------------------------------------------------------------------------------------------
  const isUpdate = (value) => value !== null && typeof value === "object" && value.__type__ === "update";

  function said(key, number) {
    const counts = (newest.get(key) || 0) <= number;
    if (counts) newest.set(key, number);
    return counts;
  }

  function filtered(value, component, number) {
    if (!isUpdate(value)) return said(`${component}.value`, number) ? value : { __type__: "update" };
    return Object.fromEntries(Object.entries(value).filter(([name]) => name === "__type__" || said(`${component}.${name}`, number)));
  }

  // Gradio sends of a further answer only what differs from the one before.
  function patched(whole, changes) {
    for (const [action, path, value] of changes) {
      if (!path.length) { whole = action === "append" ? whole + value : value; continue; }
      const at = path.slice(0, -1).reduce((inner, part) => inner[part], whole), last = path[path.length - 1];
      if (action === "append") at[last] += value;
      else if (action === "delete") Array.isArray(at) ? at.splice(last, 1) : delete at[last];
      else if (action === "add" && Array.isArray(at)) at.splice(last, 0, value);
      else at[last] = value;
    }
    return whole;
  }

  function settled(message, request) {
    const output = message.output, data = output && output.data;
    if (message.success === false || !Array.isArray(data)) return message;
    const further = message.msg === "process_generating" && request.whole !== null;
    if (further) request.whole = data.map((changes, i) => patched(request.whole[i], changes));
    else request.whole = data;
    // Long work: what it has found is news. But its end repeats all that it said last, which is none.
    const texts = request.whole.map((value) => JSON.stringify(value)), repeated = texts.map((text, i) => text === request.texts[i]);
    if (request.texts.length && repeated.includes(false)) request.number = ++clock;
    request.texts = texts;
    const shown = request.whole.map((value, i) =>
      repeated[i] ? { __type__: "update" } : filtered(structuredClone(value), request.outputs[i], request.number));
    // Said in full, since what the page was shown before may be less than what was sent.
    const told = further ? shown.map((value) => [["replace", [], value]]) : shown;
    return { ...message, output: { ...output, data: told } };
  }

  // Of two answers about one component that come together, Gradio may keep the first: they are told one after the other.
  const APART = 50; // ms
  const toldAt = new Map(); // component -> when it was last answered about
  async function apart(outputs) {
    const wait = Math.max(...outputs.map((id) => toldAt.get(id) || 0)) + APART - performance.now();
    if (wait > 0) await new Promise((go) => setTimeout(go, wait));
    for (const id of outputs) toldAt.set(id, performance.now());
  }

  async function requestOf(id) {
    while (!requests.has(id) && sending.size) await Promise.race(sending);
    return requests.get(id);
  }

  async function passed(line) {
    if (!line.startsWith("data:")) return line;
    let message;
    try { message = JSON.parse(line.slice(5)); } catch { return line; }
    if (!message.event_id || !/^process_(generating|completed)$/.test(message.msg)) return line;
    const request = await requestOf(message.event_id);
    if (!request) return line;
    await apart(request.outputs); // first: what is clicked meanwhile is newer
    const told = settled(message, request);
    if (message.msg === "process_completed") {
      requests.delete(message.event_id);
      ended.set(request.handler, request.number);
    }
    setTimeout(() => answered(request), 50); // once the page shows it
    return `data: ${JSON.stringify(told)}`;
  }

  function stream(response) {
    let rest = "";
    const lines = new TransformStream({
      async transform(text, out) {
        const parts = (rest + text).split("\n");
        rest = parts.pop();
        for (const line of parts) out.enqueue(`${await passed(line)}\n`);
      },
      flush(out) { if (rest) out.enqueue(rest); },
    });
    const body = response.body.pipeThrough(new TextDecoderStream()).pipeThrough(lines).pipeThrough(new TextEncoderStream());
    return new Response(body, { status: response.status, statusText: response.statusText, headers: response.headers });
  }

  const plain = window.fetch.bind(window);
  window.fetch = async (resource, options) => {
    const url = String(resource instanceof Request ? resource.url : resource);
    if (/\/queue\/data\b/.test(url)) return stream(await plain(resource, options));
    if (!/\/queue\/join\b/.test(url)) return plain(resource, options);
    let request = null;
    try { request = sent(JSON.parse(options.body)); } catch { return plain(resource, options); }
    const going = (async () => {
      const response = await plain(resource, options);
      const told = await response.clone().json().catch(() => ({}));
      if (told.event_id) requests.set(told.event_id, request); else answered(request);
      return response;
    })();
    waiting.add(request);
    const known = going.then(() => {}, () => answered(request)).finally(() => sending.delete(known));
    sending.add(known);
    return going;
  };
  // How many clicks nothing was answered to.
  window.trainerAnswers = { waiting: () => [...waiting].filter((request) => request.byHand).length };
})();
