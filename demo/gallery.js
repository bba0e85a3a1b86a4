// Runs in gr.HTML's js_on_load: `element`, `props`, `server`, `trigger` and `watch` are Gradio's.
const sound = new Audio(), clips = new Map();
let playing = null;

element.addEventListener('change', event => {
    props.value = event.target.value;
    trigger('input');
});
element.addEventListener('click', event => {
    const button = event.target.closest('button');
    if (button) hear(button.dataset.name);
});
function choose() {
    for (const choice of element.querySelectorAll('input')) choice.checked = choice.value === (props.value ?? '');
    const card = element.querySelector('input:checked')?.closest('.card');
    if (card) show(card, card.parentElement);
}
function show(card, cards) {  // on a phone the cards are a strip to be scrolled
    const left = card.offsetLeft - cards.offsetLeft;
    const seen = cards.scrollLeft <= left && left + card.offsetWidth <= cards.scrollLeft + cards.clientWidth;
    if (!seen) cards.scrollLeft = left;
}
async function hear(name) {
    const stopped = playing === name;  // or no longer waited for
    playing = stopped ? null : name;
    paint();
    if (stopped) {
        sound.pause();
        return;
    }
    const clip = clips.get(name) ?? await server.hear(name);
    if (clip) clips.set(name, clip);  // nothing comes where the server did not answer: it can be pressed again
    if (playing !== name) return;
    sound.src = clip ?? '';
    sound.play().catch(() => { playing = null; paint(); });
}
function paint() {
    for (const button of element.querySelectorAll('button')) {
        const on = button.dataset.name === playing;
        button.textContent = on ? '■' : '▶';
        button.classList.toggle('playing', on);
    }
}
for (const over of ['ended', 'pause']) sound.addEventListener(over, () => { playing = null; paint(); });
function name() {
    element.querySelectorAll('.card').forEach((card, k) => {
        const {title, note, full} = props.cards[k], small = card.querySelector('small');
        card.querySelector('button')?.setAttribute('aria-label', said('Hear {0}', title));
        card.querySelector('.title').textContent = said(title);
        small.textContent = said(note);
        small.title = said(full);
    });
    choose();
}
watch('value', choose);
watch('label', name);  // Gradio draws the cards anew then
onLanguage(name);
name();
