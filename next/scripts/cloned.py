"""cloned.py SET [--lm nano] [--best N]: sentences after one clip of each voice. SET: voices (20 test voices x 5),
people29 (x 3), people14 (x 4; made by people14.py). Rows go to runs/cloned-SET-N.jsonl, and a run goes on.
Run in the checkout's root, with corpus -> the corpus, harvard.txt, runs/, and W the folder of Whisper base."""
import argparse, glob, json, os, sys, numpy as np, torch
torch.set_num_threads(1)
a=argparse.ArgumentParser(); a.add_argument('set'); a.add_argument('--best',type=int,default=1); a.add_argument('--builtin',action='store_true'); a.add_argument('--limit',type=int); a.add_argument('--people',default='runs'); a=a.parse_args()
from llasa_lite import Llasa, Voice
from llasa_lite.audio import load
from llasa_lite.evaluation.listening import Judge, counted
judge=Judge(os.environ.get('W','../shared/models/whisper-base'),'cpu')
from resemblyzer import VoiceEncoder, preprocess_wav
enc=VoiceEncoder('cpu',verbose=False)
emb=lambda w: enc.embed_utterance(preprocess_wav(np.asarray(w,np.float32),source_sr=16000))
sentences=[l.strip() for l in open('harvard.txt') if l.strip()]
def to_pause(w,low=3.0,high=5.4):
    """The beginning up to the quietest 50 ms between low and high seconds."""
    e=np.array([np.square(w[k:k+800]).mean() for k in range(int(low*16000),min(len(w)-800,int(high*16000)),160)])
    return w if not len(e) else w[:int(low*16000)+160*int(e.argmin())+400]
def voices():
    if a.set=='voices':
        m=[json.loads(l) for l in open('corpus/manifest.jsonl')]; by={}
        for x in sorted(m,key=lambda x:x['id']):
            if x['split']=='test_speaker' and 3<=x['seconds']<=6: by.setdefault(x['speaker'],[]).append(x)
        for v in sorted(by):
            x=by[v][0]; f=[p for p in (f"corpus/clips/{x['id']//1000:03d}/{x['id']:05d}.ogg",) if os.path.exists(p)] or glob.glob(f"corpus/clips/*/{x['id']}.ogg") or [f"corpus/{x['audio']}"]
            yield v,load(f[0]),x['text']
    elif a.set=='people29':
        for d in sorted(glob.glob(a.people+'/people/tortoise-tts-3.0.0/tortoise/voices/*/')):
            fs=sorted(glob.glob(d+'*.wav')+glob.glob(d+'*.mp3'))
            if fs: w=to_pause(load(fs[0])); yield d.split('/')[-2],w,judge(w)
    else:
        for f in sorted(glob.glob(a.people+'/people14/clips/*.wav')): w=load(f); yield os.path.basename(f)[:-4],w,judge(w)
each={'voices':5,'people29':3,'people14':4}[a.set]
vs=list(voices()); print(len(vs),'voices',[round(len(w)/16000,1) for _,w,_ in vs]); prompts=[emb(w) for _,w,_ in vs]
name=f"runs/cloned-{a.set}-{'builtin' if a.builtin else a.best}.jsonl"; rows=[json.loads(l) for l in open(name)] if os.path.exists(name) else []
L=Llasa.from_pretrained('nano',device='cpu'); jobs=[(j,k) for k in range(each) for j in range(len(vs))][:a.limit]
for i,(j,k) in enumerate(jobs):
    if i<len(rows): continue
    v,w,text=vs[j]; s=sentences[(j*each+k)%len(sentences)]
    if a.builtin: voice=['joe','emma','heart','michael','slt','rms','george','sarah'][i%8]
    else: voice=Voice.from_audio((16000,w),text,v)
    made=L.tts(s,voice=voice,seed=i) if a.best==1 else L.search(s,voice=voice,n=a.best,outcome='likelihood',seed=i).best
    c=counted(s,judge(made.wav)); e=emb(made.wav); sims=[float(e@p) for p in prompts]
    rows.append({'voice':v,'sentence':s,'heard':judge(made.wav),'edits':c['edits'],'words':c['words'],'right':int(np.argmax(sims)==j),'own':sims[j],'others':float(np.mean([x for n,x in enumerate(sims) if n!=j])),'complete':bool(made.complete)})
    with open(name,'a') as f: f.write(json.dumps(rows[-1])+'\n')
def interval(num,den,groups,reps=2000):
    r=np.random.default_rng(0); num,den=np.array(num,float),np.array(den,float); out=[]
    for by in (np.arange(len(num)),np.unique(groups,return_inverse=True)[1]):
        n=by.max()+1; A=np.bincount(by,num,n); B=np.bincount(by,den,n); i=r.integers(0,n,(reps,n)); v=A[i].sum(1)/B[i].sum(1); out.append('%.1f to %.1f'%tuple(100*np.quantile(v,[.025,.975])))
    return '%.1f (%s; over voices %s)'%(100*num.sum()/den.sum(),*out)
g=[r['voice'] for r in rows]
print(a.set,'best of',a.best,'n',len(rows),'WER',interval([r['edits'] for r in rows],[r['words'] for r in rows],g),'right',interval([r['right'] for r in rows],[1]*len(rows),g),'own %.3f others %.3f'%(np.mean([r['own'] for r in rows]),np.mean([r['others'] for r in rows])),'incomplete',sum(not r['complete'] for r in rows))
