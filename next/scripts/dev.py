"""dev.py WHAT [--lm F] [--codec F] [--n N]: development figures. WHAT: codec tts builtin asr people"""
import argparse,json,random,sys,os,glob,time,numpy as np,torch
torch.set_num_threads(1)
a=argparse.ArgumentParser(); a.add_argument('what',nargs='+'); a.add_argument('--lm',default='nano'); a.add_argument('--codec'); a.add_argument('--n',type=int,default=40); a.add_argument('--devset',default='runs/devset'); a=a.parse_args()
from llasa_lite import Llasa
from llasa_lite.audio import load
from llasa_lite.evaluation.listening import Judge,VoiceJudge,counted
from llasa_lite.voices import Voice,builtin_voices
from llasa_lite.checkpoints import load_codec
judge=Judge('../shared/models/whisper-base','cpu') if 1 else None
from resemblyzer import VoiceEncoder,preprocess_wav
enc=VoiceEncoder('cpu',verbose=False)
emb=lambda w: enc.embed_utterance(preprocess_wav(np.asarray(w,np.float32),source_sr=16000))
man=[json.loads(l) for l in open('../shared/corpus/manifest.jsonl')]
path=lambda x:f"../shared/corpus/clips/{x['id']//1000:03d}/{x['id']:05d}.ogg"
if man and not os.path.exists(path(man[0])): path=lambda x:glob.glob(f"../shared/corpus/clips/*/{x['id']}.ogg")[0]
test=sorted([x for x in man if x['split']=='test'],key=lambda x:x['id'])
def boot(e,n,reps=1000):
    r=np.random.default_rng(0); e=np.array(e);n=np.array(n); i=r.integers(0,len(e),(reps,len(e))); v=e[i].sum(1)/n[i].sum(1); return f"{100*e.sum()/n.sum():.1f} % ({100*np.quantile(v,.025):.1f} to {100*np.quantile(v,.975):.1f}; n {len(e)})"
def wer(pairs):
    E,N=[],[]
    for truth,wav in pairs:
        c=counted(truth,judge(wav)); E.append(c['edits']);N.append(c['words'])
    return boot(E,N)
def devset():
    r=[json.loads(l) for l in open(a.devset+'/manifest.jsonl')]; by={}
    for x in r: by.setdefault(x['speaker'],[]).append(x)
    return by
def people():
    out={}
    for d in sorted(glob.glob('runs/people/tortoise-tts-3.0.0/tortoise/voices/*/')):
        fs=sorted(glob.glob(d+'*.wav'))
        if fs: out[d.split('/')[-2]]=fs
    return out
codec=load_codec(a.codec or 'nano','cpu',torch.float32)
llasa=None
def model():
    global llasa
    if llasa is None: llasa=Llasa.from_pretrained(a.lm,codec=a.codec,device='cpu')
    return llasa
t=time.time()
for what in a.what:
    if what=='codec':
        from pystoi import stoi
        sets={'corpus':[(x['text'],load(path(x))) for x in test[:a.n]],
              'other':[(x['text'],load(f"{a.devset}/{x['audio']}")) for v in devset().values() for x in v[:2]][:a.n]}
        pp=[]
        for f in [v[0] for v in people().values()]:
            w=load(f)[:160000]; pp.append((judge(w),w))
        sets['people']=pp
        for name,s in sets.items():
            out=[]
            for text,w in s:
                y=codec.decode(codec.encode(w)); out.append((text,w,np.asarray(y)))
            print(name,'original',wer([(x,w) for x,w,_ in out]),'codec',wer([(x,y) for x,_,y in out]),
              'stoi %.3f'%np.mean([stoi(w[:len(y)],y[:len(w)],16000) for _,w,y in out]),'sim %.3f'%np.mean([emb(w)@emb(y) for _,w,y in out]),flush=True)
        from speechmos import dnsmos
        print('dnsmos',np.mean([dnsmos.run(np.clip(codec.decode(codec.encode(w)),-1,1),16000)['p808_mos'] for _,w in sets['corpus'][:30]]),flush=True)
    if what in('tts','people'):
        L=model(); texts=[x['text'] for x in test if 25<=len(x['text'])<=80]
        if what=='tts':
            vs=[(v,load(f"{a.devset}/{max(c[:3],key=lambda x:min(x['seconds'],4))['audio']}"),max(c[:3],key=lambda x:min(x['seconds'],4))['text'],[load(f"{a.devset}/{x['audio']}") for x in c[3:]]) for v,c in devset().items()]
        else:
            vs=[]
            for v,fs in people().items():
                w=load(fs[0]); n=min(len(w),int(4.5*16000)); vs.append((v,w[:n],None,[load(f)[:128000] for f in fs[1:]] or [w[n:n+128000]]))
            vs=vs[:30]
        cents=[np.mean([emb(w) for w in ws],0) for *_,ws in vs]; cents=[c/np.linalg.norm(c) for c in cents]
        E,N,ok,sim,oth,inc=[],[],[],[],[],0
        for i in range(a.n):
            j=i%len(vs); v,w,tx,_=vs[j]
            voice=Voice.from_audio((16000,w),tx,v)
            s=L.tts(texts[i],voice=voice,seed=i); c=counted(texts[i],judge(s.wav)); E.append(c['edits']);N.append(c['words'])
            inc+=not s.complete; q=[emb(s.wav)@c for c in cents]; ok.append(int(np.argmax(q)==j)); sim.append(q[j]); oth.append(np.mean([x for k,x in enumerate(q) if k!=j]))
        print(what,'WER',boot(E,N),'right of',len(vs),boot(ok,[1]*len(ok)),'sim %.3f other %.3f'%(np.mean(sim),np.mean(oth)),'incomplete',inc,flush=True)
    if what=='builtin':
        L=model(); names=['joe','emma','heart','michael','slt','rms','george','sarah']; texts=[x['text'] for x in test if 25<=len(x['text'])<=80]
        E,N=[],[]
        for i in range(a.n):
            v=builtin_voices()[names[i%8]]
            s=L.tts(texts[-1-i],voice=v,seed=i); c=counted(texts[-1-i],judge(s.wav)); E.append(c['edits']);N.append(c['words'])
        print('builtin WER',boot(E,N),flush=True)
    if what=='asr':
        L=model()
        for name,s in (('corpus',[(x['text'],load(path(x))) for x in test[60:60+a.n]]),('other',[(x['text'],load(f"{a.devset}/{x['audio']}")) for v in devset().values() for x in v[3:4]])):
            E,N=[],[]
            for text,w in s:
                c=counted(text,L.transcribe(w).text); E.append(c['edits']);N.append(c['words'])
            print('asr',name,boot(E,N),flush=True)
    print('  %.0f s'%(time.time()-t),flush=True)
