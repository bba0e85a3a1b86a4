"""Fast voices: the rows of nano's shipped tokens by joe/slt/rms/awb (texts and speakers as there), then WordNet's examples."""
import sys,json,os,random,re,glob,subprocess,tempfile
sys.argv=['x','a','b','fast']
sys.path.insert(0,'../shared/teacher')
import importlib.util
spec=importlib.util.spec_from_file_location('mc','../shared/teacher/make_corpus.py'); mc=importlib.util.module_from_spec(spec); spec.loader.exec_module(mc)
import numpy as np,librosa,soundfile as sf
out='runs/fast'; os.makedirs(out+'/clips',exist_ok=True)
_,speak=mc.fast('runs/teacher')
sent=[l.rstrip('\n').split('\t')[1] for l in open('../shared/teacher/sentences.tsv')]
rows=json.load(open('runs/fastrows.json'))  # [text,speaker,split]
at={t:i for i,t in enumerate(sent) if i%2==1}
jobs=[(at[t],t,s) for t,_,s in rows if t in at]
random.Random(1).shuffle(jobs)
wn=[]
seen=set(); held={l.strip().lower() for l in open('../shared/heldout/sentences.txt')}
for f in('noun','verb','adj','adv'):
    for l in open(f'/usr/share/wordnet/data.{f}',encoding='utf8',errors='ignore'):
        for e in re.findall(r'"([^"]+)"',l.split('|',1)[-1]) if '|' in l else []:
            e=e.strip()
            if 14<=len(e)<=80 and re.fullmatch(r"[A-Za-z ,.'?!;-]+",e) and e.count(' ')>=2:
                e=e[0].upper()+e[1:]; e=e if e[-1] in '.?!' else e.rstrip(',;-')+'.'
                if e not in seen and e.lower() not in held: seen.add(e); wn.append(e)
# those with words that the sentences rarely have
from collections import Counter
c=Counter(w for t in sent for w in re.findall(r"[a-z']+",t.lower()))
def rare(e): return min(c[w] for w in re.findall(r"[a-z']+",e.lower()))
wn=[e for e in wn if rare(e)<20]; random.Random(2).shuffle(wn)
picked=[]; got=Counter()
for e in wn:
    ws=[w for w in re.findall(r"[a-z']+",e.lower()) if c[w]<20]
    if any(got[w]<2 for w in ws):
        picked.append(e); got.update(ws)
print(len(jobs),len(wn),len(picked),flush=True)
jobs=[j for pair in zip(jobs,[(100000+i,e,None) for i,e in enumerate(picked)]+[None]*len(jobs)) for j in pair if j]
done={json.loads(l)['id'] for l in open(out+'/manifest.jsonl')} if os.path.exists(out+'/manifest.jsonl') else set()
with open(out+'/manifest.jsonl','a') as m:
    for row,text,_ in jobs:
        if row in done: continue
        try: speaker,w,rate=speak(row,text)
        except Exception as x: print(row,x,flush=True); continue
        w=librosa.effects.trim(librosa.resample(np.asarray(w,np.float32),orig_sr=rate,target_sr=16000),top_db=45)[0]
        if len(w)<8000 or len(w)>16000*11 or np.abs(w).max()<1e-3: continue
        sf.write(f'{out}/clips/{row}.ogg',w/np.abs(w).max()*.7,16000,format='OGG',subtype='OPUS')
        m.write(json.dumps({'id':row,'text':text,'speaker':speaker,'seconds':round(len(w)/16000,2),'split':'test' if row%50 in(0,1) else 'train','audio':f'clips/{row}.ogg'})+'\n'); m.flush()
