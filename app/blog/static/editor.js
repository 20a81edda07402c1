// The editor is a plain form that also works without this script. The script adds a live preview, uploads of
// pictures (by button, paste or drop), Ctrl+S to save, and a warning before the author leaves unsaved text. Unsaved
// text also stays in the storage of the tab, so that it is not lost by a reload or by a failed connection.
(() => {
  "use strict";

  // How long after the last key the preview is requested, and the text is kept in the tab's storage.
  const PREVIEW_DELAY_MS = 300;
  const KEEP_DELAY_MS = 300;

  const form = document.getElementById("blog_editor");
  const text = form.elements.body;
  const pane = form.querySelector("[data-pane]");
  const preview = form.querySelector("[data-preview-body]");
  const status = form.querySelector("[data-status]");
  const picker = form.querySelector("[data-file]");
  const hint = status.textContent;
  let timer;
  let latest = 0;
  let dirty = form.closest("main").querySelector(".banner-error") !== null;

  const send = (url, fields) => {
    const body = new FormData();
    for (const [name, value] of Object.entries(fields)) body.append(name, value);
    const headers = { Accept: "application/json, text/html;q=0.5", "X-CSRFToken": form.elements.csrf_token.value };
    const signal = AbortSignal.timeout(300_000);
    return fetch(url, { method: "POST", body, headers, credentials: "same-origin", redirect: "error", signal });
  };

  const say = (message, isError = false) => {
    status.textContent = message || hint;
    status.classList.toggle("field-error", isError);
  };

  // Show a message together with the problems of uploads, if any.
  let problems = [];
  const warn = (message) => say([...problems, message].join(" "), true);

  // Preview

  const outdated = "The preview is out of date: ";

  const show = async () => {
    const number = ++latest;
    try {
      const response = await send(form.dataset.preview, { body: text.value });
      const html = await response.text();
      if (number !== latest) return; // a later request will show a newer text
      // With 422, the server tells why it cannot render the text.
      if (response.ok || response.status === 422) {
        preview.innerHTML = html; // sanitised by the server
        if (status.textContent.includes(outdated)) say(problems.join(" "), problems.length > 0);
      } else warn(`${outdated}sign in again in another tab.`);
    } catch {
      if (number === latest) warn(`${outdated}the server cannot be reached.`);
    }
  };

  text.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(show, PREVIEW_DELAY_MS);
  });

  // Pictures: a marker in the text keeps the place of each picture until the picture is uploaded.

  const insert = (words, start, end) => {
    text.setRangeText(words, start, end, "end");
    text.dispatchEvent(new Event("input", { bubbles: true }));
  };

  const replace = (marker, words) => {
    const start = text.value.indexOf(marker);
    if (start < 0) return; // the author removed the marker
    const end = start + marker.length;
    const line = words === "" && text.value[end] === "\n" ? 1 : 0;
    text.setRangeText(words, start, end + line, "preserve");
    text.dispatchEvent(new Event("input", { bubbles: true }));
  };

  // Return the picture's line of Markdown as `words`, or a `problem`.
  const upload = async (file) => {
    try {
      const response = await send(form.dataset.upload, { file });
      const type = response.headers.get("Content-Type") || "";
      const answer = type.startsWith("application/json") ? await response.json() : {};
      if (response.ok) return { words: answer.markdown };
      if (answer.error) return { problem: `${file.name}: ${answer.error}` };
      if (response.status === 413) return { problem: `${file.name} is too large.` };
      return { problem: `${file.name} was not uploaded: sign in again in another tab.` };
    } catch {
      return { problem: `${file.name} was not uploaded: the server cannot be reached, or the file is too large.` };
    }
  };

  // Ask for the missing description. Move the caret there only if the author does nothing else meanwhile.
  const describe = (words) => {
    say("Describe the picture between [ and ], for readers who cannot see it.");
    const start = text.value.indexOf(words);
    if (start < 0 || active) return;
    text.focus();
    text.setSelectionRange(start + 2, start + 2);
  };

  let active = false;
  for (const name of ["keydown", "pointerdown", "input"]) {
    document.addEventListener(name, (event) => { active ||= event.isTrusted; }, true);
  }

  let uploads = 0;
  let waiting = 0; // the number of pictures that are not uploaded yet
  let saveLater = false;
  let queue = Promise.resolve();

  const uploadBatch = async (batch) => {
    let undescribed = "";
    for (const { file, marker } of batch) {
      const { words = "", problem } = await upload(file);
      replace(marker, words);
      if (problem) problems.push(problem);
      if (words.startsWith("![]")) undescribed ||= words;
      waiting--;
    }
    if (problems.length > 0) warn(saveLater ? "The text is not saved." : "");
    else if (waiting === 0 && saveLater) save();
    else if (undescribed) describe(undescribed);
    if (waiting === 0) saveLater = false;
  };

  const uploadAll = (files) => {
    if (waiting === 0) problems = [];
    if (problems.length === 0) say("");
    const batch = files.map((file) => ({ file, marker: `![Uploading picture ${++uploads} …]()` }));
    insert(batch.map(({ marker }) => `${marker}\n`).join(""), text.selectionStart, text.selectionEnd);
    active = false;
    waiting += files.length;
    queue = queue.then(() => uploadBatch(batch));
  };
  const pictures = (transfer) => [...transfer.files].filter((file) => file.type.startsWith("image/"));

  text.addEventListener("paste", (event) => {
    const files = pictures(event.clipboardData);
    if (files.length === 0) return;
    event.preventDefault();
    uploadAll(files);
  });
  text.addEventListener("drop", (event) => {
    const files = pictures(event.dataTransfer);
    if (files.length === 0) return;
    event.preventDefault();
    uploadAll(files);
  });
  form.querySelector("[data-picture]").addEventListener("click", () => picker.click());
  picker.addEventListener("change", () => {
    uploadAll([...picker.files]);
    picker.value = "";
  });

  // Unsaved text. The server confirms a save with a message, and the message removes the texts that were sent.

  const prefix = "unsaved ";
  const place = prefix + location.pathname;
  const stored = (name) => JSON.parse(sessionStorage.getItem(name) || "null");
  let keeper;

  const keep = (sent = false) => {
    const fields = Object.fromEntries(new FormData(form));
    delete fields.csrf_token;
    fields.body = fields.body.replace(/!\[Uploading picture \d+ …\]\(\)\n?/g, ""); // a reload ends the uploads
    const user = form.dataset.user || stored(place)?.user;
    try {
      sessionStorage.setItem(place, JSON.stringify({ fields, user, sent }));
    } catch {
      // The storage is full. The text is still in the form.
    }
  };

  const restore = () => {
    if (document.querySelector("[data-saved]")) {
      const names = Object.keys(sessionStorage).filter((name) => name.startsWith(prefix));
      for (const name of names) if (stored(name).sent) sessionStorage.removeItem(name);
    }
    const unsaved = stored(place);
    if (dirty || !unsaved || unsaved.user !== form.dataset.user) return;
    const fields = Object.entries(unsaved.fields).filter(([name]) => form.elements[name]);
    const differs = ([name, value]) => form.elements[name].type !== "hidden" && form.elements[name].value !== value;
    if (!fields.some(differs)) return;
    for (const [name, value] of fields) form.elements[name].value = value;
    form.querySelector("[data-restored]").hidden = false;
    dirty = true;
  };

  form.querySelector("[data-discard]").addEventListener("click", () => {
    sessionStorage.removeItem(place);
    dirty = false;
    location.reload();
  });

  // Saving

  const save = () => form.requestSubmit(form.querySelector(".button-main"));

  form.addEventListener("input", () => {
    dirty = true;
    clearTimeout(keeper);
    keeper = setTimeout(keep, KEEP_DELAY_MS);
  });
  form.addEventListener("submit", (event) => {
    if (event.submitter?.hasAttribute("formaction")) return;
    if (waiting === 0) {
      dirty = false;
      clearTimeout(timer);
      clearTimeout(keeper);
      keep(true);
    } else {
      event.preventDefault();
      saveLater = true;
      say("The text will be saved as soon as the pictures are uploaded.");
    }
  });
  window.addEventListener("beforeunload", (event) => {
    if (dirty) event.preventDefault();
  });
  window.addEventListener("pagehide", () => { if (dirty) keep(); });
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "s") {
      event.preventDefault();
      save();
    }
  });

  for (const hidden of form.querySelectorAll("[data-tools], [data-pane]")) hidden.hidden = false;
  form.querySelector("[data-plain-preview]").hidden = true;
  form.classList.add("editor-live");
  restore();
  show();
})();
